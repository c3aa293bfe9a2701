//! Where the time goes, layer by layer.

use std::io::Write;

use tobiuo::bench::{BenchOptions, BenchReport, bench};
use tobiuo::{ContextOptions, Engine, Error, ErrorKind};

use crate::options::{Form, Options};

/// Measures the layers and writes them as a table: name, calls, total and mean time in
/// milliseconds, share of all.
pub fn write(
    out: &mut impl Write,
    engine: &Engine,
    options: &Options,
    form: Form,
) -> Result<(), Error> {
    let mut bench_options = BenchOptions::default();
    bench_options.context = ContextOptions::default().batch(options.batch);
    bench_options.layers = true;
    let report = bench(engine, &bench_options)?;
    let written = out.write_all(table(&report, form).as_bytes());
    written.map_err(|e| Error::caused(ErrorKind::Other, "standard output", e))
}

fn table(report: &BenchReport, form: Form) -> String {
    let (head, separator) = match form {
        Form::Markdown => (
            "\n| Layer name | #call | total ms | ms/call | % |\n|---|---:|---:|---:|---:|\n",
            " | ",
        ),
        Form::Csv => ("Layer name,#call,total ms,ms/call,%\n", ","),
    };
    let sum: f64 = report.layers.iter().map(|l| l.mean.as_secs_f64()).sum();
    let mut text = head.to_string();
    for layer in &report.layers {
        let ms = layer.mean.as_secs_f64() * 1e3;
        let name = match form {
            Form::Markdown => layer.name.replace('|', "\\|"),
            // Quoted, as RFC 4180 has it.
            Form::Csv => format!("\"{}\"", layer.name.replace('"', "\"\"")),
        };
        let share = 100.0 * layer.mean.as_secs_f64() / sum.max(1e-12);
        let row = [
            name,
            report.iterations.to_string(),
            format!("{:.4}", ms * report.iterations as f64),
            format!("{ms:.5}"),
            format!("{share:.2}"),
        ];
        let row = row.join(separator);
        text.push_str(&if form == Form::Markdown { format!("| {row} |\n") } else { row + "\n" });
    }
    text
}
