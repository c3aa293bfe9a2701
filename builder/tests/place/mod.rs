//! The builder program on the stand-in driver, with files of its own.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;
use tempfile::TempDir;
use tobiuo_standin::Standin;

pub fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models").join(name)
}

/// A folder for engines and caches, and the machine.
pub struct Place {
    pub folder: TempDir,
    machine: Standin,
}

impl Place {
    pub fn new(machine: Standin) -> Place {
        Place { folder: tempfile::tempdir().unwrap(), machine }
    }

    pub fn on(self, machine: Standin) -> Place {
        Place { machine, ..self }
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_string()
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.machine.command(env!("CARGO_BIN_EXE_tobiuo-builder"));
        // Not the user's own cache.
        command.env("XDG_CACHE_HOME", self.folder.path().join("cache"));
        command.args(arguments).output().unwrap()
    }

    pub fn ends(&self, status: i32, arguments: &[&str]) -> String {
        let out = self.run(arguments);
        let words = String::from_utf8_lossy(&out.stderr).into_owned()
            + &String::from_utf8_lossy(&out.stdout);
        assert_eq!(out.status.code(), Some(status), "{arguments:?}: {words}");
        words
    }

    /// Builds a model into `engine`; the report.
    pub fn build(&self, name: &str, engine: &str, more: &[&str]) -> Value {
        let (m, e) = (model(name), self.path(engine));
        let fixed = ["build", m.to_str().unwrap(), "-o", &e, "--json", "-q"];
        let out = self.run(&[&fixed, more].concat());
        let words = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{more:?}: {words}");
        serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {words}"))
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    pub fn files(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.folder.path()).unwrap();
        let mut out: Vec<String> =
            names.map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
        out.sort();
        out
    }
}

pub fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value}"))
}
