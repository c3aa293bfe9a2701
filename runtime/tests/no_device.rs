//! The program built without any device.

#![cfg(not(feature = "cpu"))]

mod common;

use common::{colour_engine, output, tobiuo};

#[test]
fn says_which_device_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let engine = colour_engine(folder.path());
    for command in ["run", "bench"] {
        let (out, _, stderr) = output(tobiuo().arg(command).arg(&engine));
        assert_eq!(out.status.code(), Some(5), "{stderr}");
        assert!(stderr.contains("cpu") && stderr.contains("--features cpu"), "{stderr}");
    }
    let (out, stdout, _) = output(tobiuo().arg("inspect").arg(&engine));
    assert!(out.status.success() && stdout.contains("images"), "inspecting needs no device");
}
