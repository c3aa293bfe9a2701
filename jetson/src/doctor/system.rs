//! Board, groups, memory, folders.

use std::fs;
use std::path::Path;

use super::{Check, LIMIT, OTHER, Question};
use crate::{Identity, Root};

pub(super) fn board(identity: &Identity) -> Check {
    const NAME: &str = "board";
    let text = match (&identity.model, identity.module) {
        (Some(model), Some(_)) => format!("{identity}; {model}"),
        _ => identity.to_string(),
    };
    if !identity.is_jetson() {
        return Check::ok(NAME, "not a Jetson");
    }
    match identity.jetpack {
        Some(jetpack) if !jetpack.supported => Check::fail(
            NAME,
            OTHER,
            format!("{text}: glibc {}", jetpack.glibc),
            "programs are made for JetPack 5.1 (glibc 2.31) and later",
        ),
        Some(_) if identity.module.is_some() => Check::ok(NAME, text),
        _ => Check::warn(
            NAME,
            format!("{text}: not in this version's table of modules and releases"),
            "everything works by what driver and kernel say; figures of the table are not shown",
        ),
    }
}

/// A group's number.
fn group(root: &Root, name: &str) -> Option<u32> {
    let groups = root.text("/etc/group")?;
    let line = groups.lines().find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok()
}

/// The user's number and groups.
fn user(root: &Root) -> Option<(u32, Vec<u32>)> {
    let status = root.text("/proc/self/status")?;
    let numbers = |key: &str| -> Vec<u32> {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap_or("").split_whitespace().filter_map(|n| n.parse().ok()).collect()
    };
    let uid = *numbers("Uid:").get(1)?;
    let mut groups = numbers("Groups:");
    groups.extend(numbers("Gid:").get(1));
    Some((uid, groups))
}

pub(super) fn groups(q: &Question, identity: &Identity) -> Option<Check> {
    const NAME: &str = "groups";
    let (uid, mine) = user(&q.root)?;
    if uid == 0 {
        return Some(Check::ok(NAME, "root, who may open every device"));
    }
    // The GPU's nodes are of these groups on a Jetson; cameras are of `video` everywhere.
    let wanted: &[&str] = if identity.is_jetson() { &["video", "render"] } else { &["video"] };
    let missing: Vec<&str> = wanted
        .iter()
        .copied()
        .filter(|name| group(&q.root, name).is_some_and(|number| !mine.contains(&number)))
        .collect();
    if missing.is_empty() {
        return Some(Check::ok(NAME, format!("the user is in {}", wanted.join(", "))));
    }
    let missing = missing.join(",");
    let text = format!("the user is not in {missing}, whose the devices are");
    let remedy = format!("sudo usermod -aG {missing} $USER, then log in again");
    Some(match identity.is_jetson() {
        true => Check::fail(NAME, super::NO_DEVICE, text, remedy),
        false => Check::warn(NAME, text, remedy),
    })
}

pub(super) fn memory(q: &Question) -> Check {
    const NAME: &str = "memory";
    let info = q.root.text("/proc/meminfo").unwrap_or_default();
    let kib = |key: &str| -> Option<u64> {
        let line = info.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    let gpu = q.live.as_ref().and_then(|live| live.gpus.as_ref().ok()?.first()?.memory);
    let mut text = Vec::new();
    let available = kib("MemAvailable:").map(|kib| kib << 10);
    if let (Some(available), Some(total)) = (available, kib("MemTotal:")) {
        text.push(format!("{} of {} available", mib(available), mib(total << 10)));
    }
    if let Some((free, total)) = gpu {
        text.push(format!("{} of {} free for the GPU", mib(free), mib(total)));
    }
    if text.is_empty() {
        return Check::warn(NAME, "the system does not tell", "see that /proc is mounted");
    }
    let text = text.join(", ");
    let needs = q.engine.as_ref().map_or(0, |engine| engine.needs);
    let smallest = available.into_iter().chain(gpu.map(|(free, _)| free)).min();
    match smallest {
        Some(least) if least < needs => Check::fail(
            NAME,
            LIMIT,
            format!("{text}; the engine takes {}", mib(needs)),
            "end other programs (a desktop takes 800 MiB: sudo systemctl set-default \
             multi-user.target), or build with a smaller batch or --memory-limit",
        ),
        Some(least) if least < 300 << 20 => {
            Check::warn(NAME, text, "little is left: end other programs; a desktop takes 800 MiB")
        }
        _ => Check::ok(NAME, text),
    }
}

pub(super) fn cache(q: &Question) -> Check {
    const NAME: &str = "cache";
    let shown = q.cache.display();
    if !q.root.is_live() {
        return match q.root.exists(&q.cache) {
            true => Check::ok(NAME, format!("{shown} is there")),
            false => missing(&q.cache),
        };
    }
    if !q.cache.is_dir() {
        return missing(&q.cache);
    }
    // Permission bits do not tell all (read-only mounts, quotas): try.
    let probe = q.cache.join(format!(".tobiuo-{}.probe", std::process::id()));
    match fs::OpenOptions::new().write(true).create_new(true).open(&probe) {
        Ok(_) => {
            let _ = fs::remove_file(&probe);
            Check::ok(NAME, format!("{shown} can be written to"))
        }
        Err(e) => Check::warn(
            NAME,
            format!("{shown} cannot be written to: {e}"),
            "engines are provisioned by the unit's user (sudo systemctl start tobiuo-provision), \
             who owns it; on a read-only root mount a writable file system there",
        ),
    }
}

fn missing(cache: &Path) -> Check {
    Check::warn(
        "cache",
        format!("{} is not there", cache.display()),
        "install the package, whose units make it, or give tobiuo-builder provision --cache",
    )
}
