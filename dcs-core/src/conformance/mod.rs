//! The executable contract: one list of trials that every store must pass.
//!
//! A store offers a [`Harness`], which says how its servers are reached and what can be done to them, and runs
//! [`trials`] with libtest-mimic:
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use dcs_core::conformance::{self, Harness};
//! # fn harness() -> Arc<dyn Harness> { unimplemented!() }
//! let arguments = libtest_mimic::Arguments::from_args();
//! libtest_mimic::run(&arguments, conformance::trials(harness())).exit();
//! ```
//!
//! The number in a trial's name is that of the conformance list in the specification of the store. A trial that needs
//! something which the harness does not have is listed as ignored, with the reason.
//!
//! Not here, because no store-neutral trial can show them: Citus groups (9), credentials, TLS and addresses (68 to 70), and
//! work beside Patroni (73 to 75).

mod cases;
mod harness;
mod in_process;
pub mod proxy;
mod scene;

mod cancel;
mod content;
mod expiry;
mod faults;
mod leader;
mod members;
mod values;
mod watched;
mod watching;

use std::sync::Arc;

use libtest_mimic::Trial;

pub use self::harness::{AsyncRevoke, Harness, KeyValueOutside, Link, Need, NotOffered, Outside, Profile, Stage, Who};
pub use self::in_process::{InProcess, InVirtualTime};
use self::scene::Scene;

/// All trials, for libtest-mimic. Each makes its own members in a scope of its own, so that they run beside each other.
pub fn trials(harness: Arc<dyn Harness>) -> Vec<Trial> {
    let store = harness.store_name();
    let profile = harness.profile();
    cases::all()
        .into_iter()
        .map(|case| {
            let lacking = case.needs.iter().find_map(|need| need.missing_in(&profile).map(str::to_owned).or_else(|| harness.lacks(*need)));
            let ignored = lacking.is_some();
            let harness = Arc::clone(&harness);
            let trial = Trial::test(case.name, move || {
                let runtime = harness.runtime()?;
                runtime.block_on(async {
                    let scene = Scene::set(&*harness, case.name, case.needs).await?;
                    (case.run)(scene).await;
                    Ok(())
                })
            });
            let kind = lacking.map_or_else(|| store.to_owned(), |reason| format!("{store}: {reason}"));
            trial.with_kind(kind).with_ignored_flag(ignored)
        })
        .collect()
}
