//! The umask of the process, which is why this test has a process of its own.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use ha_engine::postgres::umask;

#[test]
fn what_is_created_is_closed_to_others_and_the_umask_of_the_start_is_remembered() {
    let home = tempfile::tempdir().expect("a directory");
    let mode_of_new_file = |name: &str| {
        let file = File::create(home.path().join(name)).expect("writable");
        file.metadata().expect("it is there").permissions().mode() & 0o777
    };
    let before = mode_of_new_file("before");
    let data_dir = home.path().join("data");

    umask::restrict(&data_dir);
    assert_eq!(mode_of_new_file("without a data directory"), 0o600);
    fs::create_dir(&data_dir).expect("writable");
    assert_eq!(fs::metadata(&data_dir).expect("it is there").permissions().mode() & 0o777, 0o700);
    umask::restrict(&data_dir);
    assert_eq!(mode_of_new_file("with a closed one"), 0o600);
    fs::set_permissions(&data_dir, Permissions::from_mode(0o750)).expect("ours");
    umask::restrict(&data_dir);
    assert_eq!(mode_of_new_file("with one for the group"), 0o640);

    assert_eq!(0o666 & !umask::inherited(), before);
}
