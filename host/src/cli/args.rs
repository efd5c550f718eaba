//! Flags and environment variables, made from the table of settings.

use super::{WrongArgument, output};
use crate::config::{self, Group, SETTINGS, Setting, Settings};
use crate::store::{self, MailStore};
use anyhow::Context;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What was given for the settings of a command: all of them with `SERVER`, else those of the database.
#[derive(Debug)]
pub(super) struct SettingArgs<const SERVER: bool> {
    file: Option<PathBuf>,
    given: Vec<(&'static str, Vec<String>, ValueSource)>,
}

/// The settings of commands that open the database.
pub(super) type DatabaseArgs = SettingArgs<false>;
/// The settings of the server.
pub(super) type ServerArgs = SettingArgs<true>;

impl<const SERVER: bool> SettingArgs<SERVER> {
    /// Defaults, file, environment and flags in one.
    pub(super) fn load(&self) -> anyhow::Result<Settings> {
        config::check_environment()?;
        let mut settings = Settings::default();
        if let Some(file) = &self.file {
            settings.read_file(file)?;
        }
        for (name, values, source) in &self.given {
            let setting =
                settings_of(SERVER).find(|setting| setting.name == *name).expect("it was read from the table");
            match source {
                ValueSource::EnvVariable => settings.set(setting, values, &config::variable(name))?,
                _ => settings
                    .set(setting, values, &format!("--{name}"))
                    .map_err(|error| WrongArgument(error.to_string()))?,
            }
        }
        Ok(settings)
    }

    /// Opens the database.
    pub(super) async fn open_store(&self) -> anyhow::Result<Arc<dyn MailStore>> {
        open_store(&self.load()?).await
    }

    /// As [`Self::open_store`], of one that is there: who asks what is in it makes none.
    pub(super) async fn open_existing_store(&self) -> anyhow::Result<Arc<dyn MailStore>> {
        let settings = self.load()?;
        let file = settings.database.strip_prefix("sqlite:");
        if let Some(file) = file.filter(|file| !Path::new(file).exists()) {
            anyhow::bail!("there is no database {file}");
        }
        open_store(&settings).await
    }
}

/// Opens the database of a configuration.
pub(super) async fn open_store(settings: &Settings) -> anyhow::Result<Arc<dyn MailStore>> {
    let options = database_options(settings)?;
    let shown = output::without_password(&settings.database);
    store::open(&settings.database, &options).await.with_context(|| shown)
}

/// How the database of a configuration is opened.
pub(super) fn database_options(settings: &Settings) -> anyhow::Result<store::Options> {
    settings.check_database()?;
    Ok(store::Options {
        deadline: settings.database_deadline,
        password: settings.database_password()?,
        tls: settings.database_tls,
        ca_file: settings.database_ca_file.clone(),
    })
}

fn settings_of(server: bool) -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().filter(move |setting| server || setting.group == Group::Database)
}

fn help(setting: &Setting) -> String {
    let about = setting.about();
    let help = about.trim_end_matches('.');
    match setting.default.trim_matches(['[', ']', '"']) {
        "" => help.to_owned(),
        default => format!("{help} [default: {default}]"),
    }
}

impl<const SERVER: bool> clap::Args for SettingArgs<SERVER> {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new("config")
            .long("config")
            .env("MAILCELL_CONFIG")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help("A configuration file in TOML: see `mailcell config show`")
            .hide_env(true);
        settings_of(SERVER).fold(command.arg(file), |command, setting| {
            let arg = Arg::new(setting.name)
                .long(setting.name)
                .env(config::variable(setting.name))
                .hide_env(true)
                .value_name(setting.value)
                .help(help(setting));
            command.arg(if setting.is_list { arg.action(ArgAction::Append) } else { arg })
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<const SERVER: bool> FromArgMatches for SettingArgs<SERVER> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = settings_of(SERVER).filter_map(|setting| {
            let values = matches.get_many::<String>(setting.name)?.flat_map(|text| setting.split(text)).collect();
            Some((setting.name, values, matches.value_source(setting.name)?))
        });
        Ok(SettingArgs { file: matches.get_one::<PathBuf>("config").cloned(), given: given.collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
