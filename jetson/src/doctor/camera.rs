//! Cameras.

use super::{CAMERA, Check, Question};
use crate::Identity;

pub(super) fn checks(q: &Question, identity: &Identity) -> Vec<Check> {
    const NAME: &str = "cameras";
    let mut out = Vec::new();
    match &q.live {
        Some(live) => {
            for camera in &live.cameras {
                out.push(match &camera.problem {
                    Some(problem) => {
                        let remedy = "see what the line says; `tobiuo cameras` lists all";
                        Check::fail(NAME, CAMERA, problem.clone(), remedy)
                    }
                    None if camera.modes.is_empty() => Check::warn(
                        NAME,
                        format!("{} {}: no mode that can be read", camera.path, camera.name),
                        "a raw sensor is read through the image processor: csi://0",
                    ),
                    None => Check::ok(
                        NAME,
                        format!("{} {}: {}", camera.path, camera.name, modes(&camera.modes)),
                    ),
                });
            }
        }
        None => {
            let folder = "/sys/class/video4linux";
            for node in q.root.names(folder) {
                let name = q.root.text(format!("{folder}/{node}/name")).unwrap_or_default();
                out.push(Check::ok(NAME, format!("/dev/{node} {name}")));
            }
        }
    }
    if out.is_empty() {
        out.push(Check::warn(
            NAME,
            "none under /dev/video*",
            "plug one in; in a container pass --device /dev/video0; a CSI camera needs its overlay \
             (sudo /opt/nvidia/jetson-io/jetson-io.py)",
        ));
    }
    if identity.is_jetson() {
        out.extend(argus(q));
    }
    out
}

fn modes(modes: &[String]) -> String {
    const SHOWN: usize = 4;
    let mut text = modes.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if modes.len() > SHOWN {
        text.push_str(&format!(" and {} more", modes.len() - SHOWN));
    }
    text
}

/// The daemon that CSI cameras come through.
fn argus(q: &Question) -> Option<Check> {
    const NAME: &str = "nvargus";
    if !q.root.exists("/usr/sbin/nvargus-daemon") {
        return Some(Check::warn(
            NAME,
            "nvargus-daemon is not installed; csi:// sources need it",
            "sudo apt install nvidia-l4t-camera (USB cameras do without)",
        ));
    }
    let mut processes = q.root.names("/proc").into_iter();
    let is_it = |pid: &String| {
        pid.bytes().all(|b| b.is_ascii_digit())
            // The kernel keeps 15 characters of a name.
            && q.root.text(format!("/proc/{pid}/comm")).is_some_and(|c| c.starts_with("nvargus-daemon"))
    };
    Some(match processes.any(|pid| is_it(&pid)) {
        true => Check::ok(NAME, "nvargus-daemon runs"),
        false => Check::warn(
            NAME,
            "nvargus-daemon does not run; csi:// sources need it",
            "sudo systemctl restart nvargus-daemon",
        ),
    })
}
