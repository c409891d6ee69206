//! What becomes of a cluster whose nodes are killed, robbed of their files, given other ones, left without room, or told
//! another password. Each node is a process of its own.

mod support;

#[path = "kill/crashes.rs"]
mod crashes;
#[path = "kill/files.rs"]
mod files;
#[path = "kill/passwords.rs"]
mod passwords;

use support::trial;

fn main() {
    support::run_as_node();
    let arguments = libtest_mimic::Arguments::from_args();
    let trials = vec![
        trial("nodes_are_killed_one_at_a_time", crashes::nodes_are_killed_one_at_a_time),
        trial("all_nodes_are_killed_at_once", crashes::all_nodes_are_killed_at_once),
        trial("a_node_without_room_says_so_and_comes_back_when_there_is_some", files::a_node_without_room_comes_back),
        trial("a_node_without_files_comes_back_as_another_one", files::a_node_without_files_comes_back),
        trial("a_node_with_the_files_of_another_cluster_is_refused", files::a_node_with_the_files_of_another_cluster_is_refused),
        trial("a_second_node_on_the_same_files_does_not_start", files::a_second_node_on_the_same_files_does_not_start),
        trial("a_new_node_with_another_password_does_not_join", passwords::a_new_node_with_another_password_does_not_join),
        trial("a_member_with_another_password_is_left_out_until_it_has_the_right_one", passwords::a_member_is_left_out),
    ];
    libtest_mimic::run(&arguments, trials).exit();
}
