//! Which cores there are: each has a slot, and each listener names one.

use super::{DEFAULT_SLOT, Settings, values};
use anyhow::bail;
use std::path::{Path, PathBuf};

/// A core of the configuration: a file, or `NAME=FILE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedCore {
    /// Its slot.
    pub slot: String,
    /// A component.
    pub file: PathBuf,
}

impl NamedCore {
    /// Reads a list of cores; an empty text is none. What is in front of the first `=` and no name belongs to the path.
    pub(super) fn parse_all(texts: &[String]) -> Result<Vec<NamedCore>, String> {
        let mut cores: Vec<NamedCore> = Vec::new();
        for text in texts.iter().filter(|text| !text.is_empty()) {
            let named = text.split_once('=').and_then(|(name, file)| Some((values::slot(name).ok()?, file)));
            let (slot, file) = named.unwrap_or_else(|| (DEFAULT_SLOT.to_owned(), text));
            if file.is_empty() {
                return Err(format!("expected FILE or NAME=FILE, found {text:?}"));
            }
            if cores.iter().any(|core| core.slot == slot) {
                return Err(format!("there are two cores for the slot `{slot}`"));
            }
            cores.push(NamedCore { slot, file: file.into() });
        }
        Ok(cores)
    }
}

/// Reads the name of a slot.
///
/// # Errors
/// What was expected.
pub fn slot_name(text: &str) -> Result<String, &'static str> {
    values::slot(text)
}

impl Settings {
    /// The slots of the listeners, in their order.
    pub fn slots(&self) -> Vec<&str> {
        let mut slots = Vec::new();
        for listener in &self.listen {
            if !slots.contains(&listener.slot.as_str()) {
                slots.push(&listener.slot);
            }
        }
        slots
    }

    /// The file of a slot's core, if it has one.
    pub fn core_file(&self, slot: &str) -> Option<&Path> {
        self.core.iter().find(|core| core.slot == slot).map(|core| core.file.as_path())
    }

    /// Sees that listeners and cores fit together.
    ///
    /// # Errors
    /// The listener whose slot has no core, or the core that no listener uses.
    pub fn check_slots(&self) -> anyhow::Result<()> {
        for listener in &self.listen {
            let slot = &listener.slot;
            if slot != DEFAULT_SLOT && self.core_file(slot).is_none() {
                bail!("{}: slot={slot} needs a core: there is no {slot}=FILE in the setting `core`", listener.address);
            }
        }
        let slots = self.slots();
        if let Some(unused) = self.core.iter().find(|core| !slots.contains(&core.slot.as_str())) {
            bail!("core: {} serves nobody: no listener has slot={}", unused.file.display(), unused.slot);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(listen: &[&str], cores: &[&str]) -> Result<(), String> {
        let texts: Vec<_> = cores.iter().map(|text| (*text).to_owned()).collect();
        let listen = listen.iter().map(|text| text.parse().unwrap()).collect();
        let settings = Settings { listen, core: NamedCore::parse_all(&texts)?, ..Settings::default() };
        settings.check_slots().map_err(|error| error.to_string())
    }

    #[test]
    fn a_core_is_a_path_or_has_a_name_in_front() {
        let parse = |text: &str| {
            let core = NamedCore::parse_all(&[text.to_owned()]).unwrap().pop();
            core.map(|core| (core.slot, core.file.display().to_string())).unwrap_or_default()
        };
        let pair = |slot: &str, file: &str| (slot.to_owned(), file.to_owned());
        assert_eq!(parse("full.wasm"), pair("default", "full.wasm"));
        assert_eq!(parse("strict=a/b=c.wasm"), pair("strict", "a/b=c.wasm"));
        assert_eq!(parse("./a=b.wasm"), pair("default", "./a=b.wasm"));
        assert_eq!(parse(""), pair("", ""));
        assert_eq!(
            NamedCore::parse_all(&["strict=".to_owned()]).unwrap_err(),
            "expected FILE or NAME=FILE, found \"strict=\""
        );
    }

    #[test]
    fn every_slot_has_a_core_and_every_core_a_listener() {
        assert_eq!(check(&["[::1]:25"], &[]), Ok(()));
        assert_eq!(check(&["[::1]:25", "[::1]:26 slot=strict"], &["strict=s.wasm"]), Ok(()));
        assert_eq!(check(&["[::1]:26 slot=strict"], &["strict=s.wasm"]), Ok(()));
        let refused = |listen: &[&str], cores: &[&str]| check(listen, cores).unwrap_err();
        assert_eq!(
            refused(&["[::1]:25", "[::1]:26 slot=strict"], &["full.wasm"]),
            "[::1]:26: slot=strict needs a core: there is no strict=FILE in the setting `core`"
        );
        assert_eq!(
            refused(&["[::1]:25"], &["strict=s.wasm"]),
            "core: s.wasm serves nobody: no listener has slot=strict"
        );
        assert_eq!(
            refused(&["[::1]:26 slot=strict"], &["strict=s.wasm", "full.wasm"]),
            "core: full.wasm serves nobody: no listener has slot=default"
        );
        assert_eq!(refused(&["[::1]:25"], &["a.wasm", "default=b.wasm"]), "there are two cores for the slot `default`");
    }
}
