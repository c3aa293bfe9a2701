//! Opens an engine and prints how long it took and how much memory it needed at most:
//! `cargo run --release -p tobiuo-engine --example open -- ENGINE [TIMES]`. With `--make MIB`
//! it writes an engine of that many MiB of weights first.

use std::time::Instant;

use tobiuo_engine::{
    DeviceKey, EngineFile, Manifest, OpenOptions, Place, Plan, Port, Precision, Program,
    Provenance, Task, TensorDesc, write_engine,
};
use tobiuo_tensor::DType;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let path = args.first().ok_or("usage: open ENGINE [TIMES | --make MIB]")?;
    if args.get(1).is_some_and(|a| a == "--make") {
        let mib: usize = args.get(2).ok_or("how many MiB?")?.parse()?;
        let bytes: Vec<u8> = (0..mib << 20).map(|i| ((i * 2_654_435_761) >> 13) as u8).collect();
        write_engine(path, &manifest(bytes.len()), &bytes)?;
        return Ok(());
    }
    let times = args.get(1).map_or(Ok(10), |n| n.parse())?;
    let peak = peak_rss_kib();
    for threads in [None, Some(1)] {
        let mut options = OpenOptions::default();
        options.threads = threads;
        let mut spent = Vec::new();
        for _ in 0..times {
            let start = Instant::now();
            let engine: EngineFile = options.open(path)?;
            spent.push(start.elapsed());
            std::hint::black_box(engine.weights().first());
        }
        spent.sort();
        println!(
            "{threads:?} threads: median {:?}, best {:?}; peak memory grew by {} KiB",
            spent[spent.len() / 2],
            spent[0],
            peak_rss_kib() - peak
        );
    }
    Ok(())
}

fn peak_rss_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

fn manifest(weights: usize) -> Manifest {
    let port = Port { name: "w".into(), dtype: DType::U8, shape: vec![weights] };
    Manifest {
        builder: String::new(),
        device: DeviceKey::Cpu { arch: "any".into() },
        precision: Precision::Fp32,
        provenance: Provenance::default(),
        inputs: vec![],
        outputs: vec![port.clone()],
        task: Task::Tensors,
        preprocess: None,
        labels: vec![],
        plans: vec![Plan {
            batch: 1,
            arena: 0,
            tensors: vec![TensorDesc {
                name: "w".into(),
                dtype: DType::U8,
                shape: vec![weights],
                place: Place::Weights(0),
            }],
            inputs: vec![],
            outputs: vec![0],
            program: Program::Cpu(vec![]),
        }],
    }
}
