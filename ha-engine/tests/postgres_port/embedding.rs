//! The engine in another program: its example, as it is.

#[path = "../../examples/two_servers.rs"]
#[expect(dead_code, reason = "a test has no use for `main`")]
mod two_servers;

crate::lab_tests! {
    two_engines_in_one_program_hand_over_without_an_agent => |lab| async move {
        two_servers::run(lab.bin_dir(), lab.path()).await.expect("the example ends well");
    };
}
