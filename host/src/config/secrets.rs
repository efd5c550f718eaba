//! What the server knows and nobody else.

use super::Settings;

impl Settings {
    /// Something that only the server knows, and knows when it is started again: the database's password, or the key for TLS.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn lasting_secret(&self) -> anyhow::Result<Option<Vec<u8>>> {
        let password = self.database_password()?.map(String::into_bytes);
        let key = || self.tls_key.as_ref().and_then(|file| std::fs::read(file).ok());
        Ok(password.or_else(key))
    }

    /// The database's password, from the environment or the file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn database_password(&self) -> anyhow::Result<Option<String>> {
        if let Ok(password) = std::env::var("MAILCELL_DATABASE_PASSWORD") {
            return Ok(Some(password));
        }
        let Some(path) = &self.database_password_file else { return Ok(None) };
        let text = std::fs::read_to_string(path)
            .map_err(|error| anyhow::anyhow!("cannot read {}: {error}", path.display()))?;
        Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
    }
}
