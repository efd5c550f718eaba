//! Settings from the environment.

use super::{SETTINGS, is_near};
use std::ffi::{OsStr, OsString};

const PREFIX: &str = "MAILCELL_";

/// Variables that are none of a setting: which file holds the settings, and what no file should hold.
const OTHERS: [&str; 2] = ["MAILCELL_CONFIG", "MAILCELL_DATABASE_PASSWORD"];

/// The environment variable of a setting.
pub fn variable(name: &str) -> String {
    format!("{PREFIX}{}", name.to_uppercase().replace('-', "_"))
}

/// Sees that each variable which begins as those of the settings is one of them.
///
/// # Errors
/// The first one that is not.
pub fn check_environment() -> anyhow::Result<()> {
    check(std::env::vars_os())
}

fn check(variables: impl Iterator<Item = (OsString, OsString)>) -> anyhow::Result<()> {
    let known = || SETTINGS.iter().map(|setting| variable(setting.name)).chain(OTHERS.map(str::to_owned));
    let shown = |(name, value): (OsString, OsString)| (display(&name), display(&value));
    let is_unknown = |(name, value): &(String, String)| {
        name.starts_with(PREFIX) && !known().any(|known| known == *name) && !is_said_of_a_service(name, value)
    };
    let Some((name, _)) = variables.map(shown).filter(is_unknown).min() else { return Ok(()) };
    let near = known().find(|known| is_near(known, &name));
    let hint = near.map(|near| format!("; is it {near}?")).unwrap_or_default();
    anyhow::bail!("{name}: there is no setting of that name{hint}")
}

fn display(text: &OsStr) -> String {
    text.display().to_string()
}

/// Whether Kubernetes says it, unasked, of a service whose name begins with `mailcell`.
fn is_said_of_a_service(name: &str, value: &str) -> bool {
    let is_port = |behind: &str| behind.starts_with(|c: char| c.is_ascii_digit());
    name.contains("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.split_once("_PORT_").is_some_and(|(_, behind)| is_port(behind))
        || name.ends_with("_PORT") && value.contains("://")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(name: &str, value: &str) -> Result<(), String> {
        let variables = [("PATH", "/bin"), (name, value)].map(|(name, value)| (name.into(), value.into()));
        check(variables.into_iter()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_variable_that_is_no_setting_is_refused() {
        let refused = |name| checked(name, "7").unwrap_err();
        assert_eq!(
            refused("MAILCELL_ERORS"),
            "MAILCELL_ERORS: there is no setting of that name; is it MAILCELL_ERRORS?"
        );
        assert_eq!(
            refused("MAILCELL_IDLETIMEOUT"),
            "MAILCELL_IDLETIMEOUT: there is no setting of that name; is it MAILCELL_IDLE_TIMEOUT?"
        );
        assert_eq!(refused("MAILCELL_"), "MAILCELL_: there is no setting of that name");
        assert_eq!(refused("MAILCELL_PORT"), "MAILCELL_PORT: there is no setting of that name");
        for name in ["MAILCELL_ERRORS", "MAILCELL_CONFIG", "MAILCELL_DATABASE_PASSWORD", "MAILCELLS", "MAIL"] {
            assert_eq!(checked(name, "7"), Ok(()));
        }
    }

    #[test]
    fn what_is_said_of_services_is_nobodys_mistake() {
        for (name, value) in [
            ("MAILCELL_SERVICE_HOST", "10.0.0.7"),
            ("MAILCELL_SERVICE_PORT_SMTP", "25"),
            ("MAILCELL_PORT", "tcp://10.0.0.7:25"),
            ("MAILCELL_MX_PORT", "tcp://10.0.0.7:25"),
            ("MAILCELL_MX_PORT_25_TCP_ADDR", "10.0.0.7"),
        ] {
            assert_eq!(checked(name, value), Ok(()), "{name}");
        }
    }
}
