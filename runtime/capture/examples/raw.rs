//! Writes frames of any source as raw video, for `v4l2-ctl --stream-from` and the like:
//! `cargo run -p tobiuo-capture --example raw -- SOURCE FILE [FRAMES]`.

use std::error::Error;
use std::fs::File;
use std::io::Write;

use tobiuo_capture::{Read, SourceConfig, open};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(uri), Some(path)) = (args.next(), args.next()) else {
        return Err("usage: raw SOURCE FILE [FRAMES]".into());
    };
    let frames = args.next().map(|text| text.parse()).transpose()?;
    let mut source = open(&uri, &SourceConfig { frames, ..Default::default() })?;
    let mut file = File::create(&path)?;
    let mut slot = vec![0; source.max_frame_bytes()];
    while let Read::Frame(meta) = source.read(&mut slot, &false.into())? {
        let bytes = meta.format.frame_bytes().ok_or("a frame without a size")?;
        file.write_all(&slot[..bytes])?;
        println!("frame {}: {}", meta.sequence, meta.format);
    }
    Ok(())
}
