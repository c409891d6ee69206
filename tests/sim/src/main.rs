//! Runs scenarios: `sim [--seeds FROM..TO] [--mode async|on|strict|quorum|all] [--minutes N] [--history]
//! [--no-shrink] [--until-failure] [--same-timelines]`.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use simulation::{MODES, Mode, Scenario, run, shrink};

struct Options {
    from: u64,
    to: u64,
    modes: Vec<Mode>,
    span: Duration,
    history: bool,
    shrinks: bool,
    until_failure: bool,
    same_timelines: bool,
}

impl Options {
    fn scenario(&self, seed: u64, mode: Mode) -> Scenario {
        Scenario { same_timelines: self.same_timelines, ..Scenario::random(seed, mode, self.span) }
    }
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        from: 0,
        to: 100,
        modes: MODES.to_vec(),
        span: Duration::from_secs(300),
        history: false,
        shrinks: true,
        until_failure: false,
        same_timelines: false,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        let number = |text: &str| text.parse::<u64>().map_err(|_| format!("`{text}` is not a number"));
        match argument.as_str() {
            "--seeds" => {
                let text = value()?;
                (options.from, options.to) = match text.split_once("..") {
                    Some((from, to)) => (number(from)?, number(to)?),
                    None => (0, number(&text)?),
                };
            }
            "--mode" => {
                let text = value()?;
                if text != "all" {
                    options.modes.retain(|mode| mode.to_string() == text);
                }
                if options.modes.is_empty() {
                    return Err(format!("there is no mode `{text}`"));
                }
            }
            "--minutes" => options.span = Duration::from_secs(60 * number(&value()?)?),
            "--history" => options.history = true,
            "--until-failure" => options.until_failure = true,
            "--same-timelines" => options.same_timelines = true,
            "--no-shrink" => options.shrinks = false,
            _ => return Err(format!("`{argument}` is unknown")),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    let jobs: Vec<(u64, Mode)> = (options.from..options.to).flat_map(|seed| options.modes.iter().map(move |mode| (seed, *mode))).collect();
    let next = AtomicU64::new(0);
    let failed = Mutex::new(Vec::new());
    let (seconds, acknowledged, promotions) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    if options.until_failure && failed.lock().is_ok_and(|failed| !failed.is_empty()) {
                        return;
                    }
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some((seed, mode)) = usize::try_from(index).ok().and_then(|index| jobs.get(index)) else { return };
                    let scenario = options.scenario(*seed, *mode);
                    let outcome = run(&scenario, options.history);
                    seconds.fetch_add(outcome.took.as_secs(), Ordering::Relaxed);
                    acknowledged.fetch_add(outcome.acknowledged as u64, Ordering::Relaxed);
                    promotions.fetch_add(outcome.promotions.len() as u64, Ordering::Relaxed);
                    if options.history {
                        println!("{}", outcome.history.join("\n"));
                    }
                    if !outcome.violations.is_empty() {
                        eprintln!("seed {seed}, mode {mode}: {}", outcome.violations.join("\n    "));
                        if let Ok(mut failed) = failed.lock() {
                            failed.push((*seed, *mode));
                        }
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().unwrap_or_default();
    failed.sort_by_key(|(seed, mode)| (*seed, mode.to_string()));
    println!(
        "{} histories, {:.1} simulated hours, {} rows acknowledged, {} promotions; {} failed",
        jobs.len(),
        seconds.into_inner() as f64 / 3600.0,
        acknowledged.into_inner(),
        promotions.into_inner(),
        failed.len()
    );
    let Some((seed, mode)) = failed.first() else { return ExitCode::SUCCESS };
    if options.shrinks {
        let (smallest, outcome) = shrink(&options.scenario(*seed, *mode));
        println!("seed {seed}, mode {mode}, shrunk to {} faults:", smallest.faults.len());
        smallest.faults.iter().for_each(|fault| println!("    {fault}"));
        println!("{}", outcome.history.join("\n"));
        println!("{}", outcome.violations.join("\n"));
    }
    ExitCode::FAILURE
}
