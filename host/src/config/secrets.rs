//! What the server knows and nobody else.

use super::Settings;

impl Settings {
    /// Something that only the server knows, and knows when it is started again: the database's password, or the key for TLS.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn lasting_secret(&self) -> anyhow::Result<Option<Vec<u8>>> {
        let password = self.database_password()?.or_else(|| self.password_in_address());
        // What is empty, everybody knows.
        let password = password.filter(|password| !password.is_empty()).map(String::into_bytes);
        let key = || self.tls_key.as_ref().and_then(|file| std::fs::read(file).ok());
        Ok(password.or_else(key))
    }

    /// The database's password, from the environment or the file. An empty variable is none, as a variable is hard to take away
    /// again where programs are started.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn database_password(&self) -> anyhow::Result<Option<String>> {
        self.password(std::env::var("MAILCELL_DATABASE_PASSWORD").ok())
    }

    fn password(&self, variable: Option<String>) -> anyhow::Result<Option<String>> {
        if let Some(password) = variable.filter(|password| !password.is_empty()) {
            return Ok(Some(password));
        }
        let Some(path) = &self.database_password_file else { return Ok(None) };
        let text = std::fs::read_to_string(path)
            .map_err(|error| anyhow::anyhow!("cannot read {}: {error}", path.display()))?;
        Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
    }

    /// The password in `mysql://USER:PASSWORD@HOST`, as it is written there.
    fn password_in_address(&self) -> Option<String> {
        let (user, _) = self.database.strip_prefix("mysql://")?.rsplit_once('@')?;
        let (_, password) = user.split_once(':')?;
        Some(password.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_variable_is_no_password() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("password");
        std::fs::write(&file, "from the file\n").unwrap();
        let settings = Settings { database_password_file: Some(file), ..Settings::default() };
        let password = |variable: Option<&str>| settings.password(variable.map(str::to_owned)).unwrap().unwrap();
        assert_eq!(password(Some("from outside")), "from outside");
        assert_eq!(password(Some("")), "from the file");
        assert_eq!(password(None), "from the file");
    }

    #[test]
    fn a_password_in_the_address_is_a_lasting_secret() {
        let secret = |url: &str| Settings { database: url.to_owned(), ..Settings::default() }.password_in_address();
        assert_eq!(secret("mysql://u:p@ss@h/d"), Some("p@ss".to_owned()));
        assert_eq!(secret("mysql://u:@h/d"), Some(String::new()));
        assert_eq!(secret("mysql://u@h:3306/d"), None);
        assert_eq!(secret("sqlite:a:b@c"), None);
        let settings = Settings { database: "mysql://u:secret@h/d".into(), ..Settings::default() };
        assert_eq!(settings.lasting_secret().unwrap(), Some(b"secret".to_vec()));
        let settings = Settings { database: "mysql://u:@h/d".into(), ..Settings::default() };
        assert_eq!(settings.lasting_secret().unwrap(), None);
    }
}
