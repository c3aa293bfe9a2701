use std::fmt::Write as _;

use serde_json::{Value, json};
use tobiuo::Error;
use tobiuo::capture::cameras::{self, Camera, Mode};

use super::args::Args;
use super::{Command, print, print_json};

pub const COMMAND: Command = Command {
    name: "cameras",
    synopsis: "",
    summary: "lists the cameras of this machine and their modes",
    options: "",
    device: false,
    run,
};

fn run(args: Args) -> Result<(), Error> {
    args.only("cameras", &[])?;
    args.values_at_most("cameras", 0)?;
    let found = cameras::list();
    if args.json {
        let cameras: Vec<Value> = found.iter().map(document).collect();
        return print_json(&json!({ "cameras": cameras }));
    }
    if found.is_empty() {
        return print("no cameras: there is no V4L2 capture device under /dev/video*\n");
    }
    let mut text = String::new();
    found.iter().for_each(|camera| describe(&mut text, camera));
    print(&text)
}

fn document(c: &Camera) -> Value {
    let mode = |m: &Mode| {
        json!({
            "format": m.format,
            "width": m.width,
            "height": m.height,
            "rates": m.rates,
            "supported": m.supported,
        })
    };
    json!({
        "path": c.path.to_string_lossy(),
        "card": c.card,
        "driver": c.driver,
        "bus": c.bus,
        "modes": c.modes.iter().map(mode).collect::<Vec<_>>(),
        "problem": c.problem.as_ref().map(ToString::to_string),
    })
}

fn describe(t: &mut String, c: &Camera) {
    if let Some(problem) = &c.problem {
        let _ = writeln!(t, "{problem}");
        return;
    }
    let _ = writeln!(t, "{}: {} ({}, {})", c.path.display(), c.card, c.driver, c.bus);
    for m in &c.modes {
        let rates: Vec<String> = m.rates.iter().map(|r| format!("{r:.4}")).collect();
        let rates: Vec<&str> =
            rates.iter().map(|r| r.trim_end_matches('0').trim_end_matches('.')).collect();
        let note = if m.supported { "" } else { "  (not read by tobiuo)" };
        let _ = writeln!(
            t,
            "    {} {:>5} x {:<5} {} frames/s{note}",
            m.format,
            m.width,
            m.height,
            if rates.is_empty() { "?".into() } else { rates.join(", ") }
        );
    }
}
