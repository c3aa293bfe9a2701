//! Reads frames of any source and tells about each:
//! `cargo run -p tobiuo-capture --example frames -- test:// [FRAMES] [WIDTH HEIGHT]`.

use std::error::Error;

use tobiuo_capture::{Read, SourceConfig, open};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let uri = args.next().unwrap_or_else(|| "test://".into());
    let mut number = || args.next().map(|text| text.parse::<u32>()).transpose();
    let frames = Some(number()?.unwrap_or(10).into());
    let (width, height) = (number()?, number()?);
    let cfg = SourceConfig { frames, width, height, ..Default::default() };
    let mut source = open(&uri, &cfg)?;
    println!("{}", source.describe());
    let mut slot = vec![0; source.max_frame_bytes()];
    while let Read::Frame(meta) = source.read(&mut slot, &false.into())? {
        let bytes = meta.format.frame_bytes().unwrap_or(0);
        let mean = slot[..bytes].iter().map(|&byte| f64::from(byte)).sum::<f64>() / bytes as f64;
        println!(
            "frame {}: {} at {:.3} s, {} dropped before, mean byte {mean:.1} {}",
            meta.sequence,
            meta.format,
            meta.timestamp_ns as f64 / 1e9,
            meta.dropped_before,
            source.frame_name().unwrap_or(""),
        );
    }
    Ok(())
}
