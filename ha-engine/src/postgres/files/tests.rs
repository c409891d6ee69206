use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::super::parameters::Parameters;
use super::super::testing;
use super::*;

struct Node {
    _root: TempDir,
    paths: Paths,
    modes: Modes,
}

/// A data directory as `initdb` leaves it, with configuration files in it or beside it.
fn node(config_outside: bool) -> Node {
    let root = tempfile::tempdir().expect("a directory");
    let data_dir = root.path().join("data");
    let config_dir = if config_outside { root.path().join("etc") } else { data_dir.clone() };
    for directory in [&data_dir, &config_dir] {
        fs::create_dir_all(directory).expect("a directory");
    }
    fs::write(data_dir.join("PG_VERSION"), "15\n").expect("a file");
    fs::set_permissions(&data_dir, Permissions::from_mode(0o700)).expect("a mode");
    let paths = Paths::new(&PostgresSettings { data_dir, config_dir, ..testing::settings() });
    fs::write(&paths.postgresql_conf, "# original\n").expect("a file");
    Node { _root: root, paths, modes: Modes::from_umask(0o022) }
}

impl Node {
    fn write(&self, path: &Path, content: &str) {
        write(&self.paths, self.modes, path, content.as_bytes()).expect("written");
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("a file").permissions().mode() & 0o777
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).expect("a file")
}

/// P3-1, P3-2
#[test]
fn the_original_configuration_is_renamed_once_and_never_again() {
    let node = node(false);
    let Paths { postgresql_conf, base_conf, .. } = &node.paths;
    keep_original_conf(&node.paths, node.modes).expect("renamed");
    assert_eq!(text(base_conf), "# original\n");
    assert!(!postgresql_conf.exists());

    node.write(postgresql_conf, "# edited by hand\n");
    keep_original_conf(&node.paths, node.modes).expect("nothing to do");
    assert_eq!(text(base_conf), "# original\n");
    assert_eq!(text(postgresql_conf), "# edited by hand\n");
}

#[test]
fn an_included_file_of_the_operator_leaves_the_original_alone() {
    let node = node(false);
    let settings = PostgresSettings {
        data_dir: node.paths.data_dir.clone(),
        config_dir: node.paths.config_dir.clone(),
        custom_conf: Some("/my.conf".to_owned()),
        ..testing::settings()
    };
    let paths = Paths::new(&settings);
    assert_eq!(paths.include, "/my.conf");
    keep_original_conf(&paths, node.modes).expect("nothing to do");
    assert!(!paths.base_conf.exists() && paths.postgresql_conf.exists());
}

#[test]
fn a_lost_original_comes_back_instead_of_a_file_that_includes_itself() {
    let node = node(false);
    node.write(&node.paths.postgresql_conf, conf::HEADER);
    keep_original_conf(&node.paths, node.modes).expect("created");
    assert_eq!(text(&node.paths.base_conf), "");

    fs::remove_file(&node.paths.base_conf).expect("removed");
    fs::write(node.paths.data_dir.join("postgresql.base.conf.backup"), "# saved\n").expect("a file");
    keep_original_conf(&node.paths, node.modes).expect("restored");
    assert_eq!(text(&node.paths.base_conf), "# saved\n");
}

#[test]
fn without_any_configuration_there_is_nothing_to_keep() {
    let node = node(false);
    fs::remove_file(&node.paths.postgresql_conf).expect("removed");
    let error = keep_original_conf(&node.paths, node.modes).expect_err("nothing to rename").to_string();
    assert!(error.contains("postgresql.conf`"), "{error}");
}

/// P3-7
#[test]
fn new_files_have_the_mode_of_their_data_directory() {
    let node = node(false);
    let file = &node.paths.pg_hba;
    node.write(file, "a");
    assert_eq!(mode(file), 0o600);
    fs::set_permissions(&node.paths.data_dir, Permissions::from_mode(0o750)).expect("a mode");
    node.write(file, "b");
    assert_eq!((mode(file), text(file).as_str()), (0o640, "b"));
}

#[test]
fn files_elsewhere_have_the_mode_that_the_agent_was_started_with() {
    let node = node(true);
    node.write(&node.paths.pg_hba, "a");
    assert_eq!(mode(&node.paths.pg_hba), 0o644);
    write(&node.paths, Modes::from_umask(0o077), &node.paths.pg_hba, b"b").expect("written");
    assert_eq!(mode(&node.paths.pg_hba), 0o600);
}

#[test]
fn a_symbolic_link_stays_and_what_it_points_to_is_replaced() {
    let node = node(true);
    let link = node.paths.data_dir.join("link.conf");
    let middle = node.paths.data_dir.join("middle.conf");
    symlink("middle.conf", &link).expect("a link");
    symlink(node.paths.config_dir.join("real.conf"), &middle).expect("a link");
    for content in ["first", "second"] {
        node.write(&link, content);
        assert_eq!(text(&node.paths.config_dir.join("real.conf")), content);
    }
    assert_eq!(mode(&link), 0o644, "the rule is that of the place where the file is");
    assert!(fs::symlink_metadata(&link).expect("a link").is_symlink());
    assert!(fs::symlink_metadata(&middle).expect("a link").is_symlink());

    symlink("loop.conf", node.paths.data_dir.join("loop.conf")).expect("a link");
    assert!(write(&node.paths, node.modes, &node.paths.data_dir.join("loop.conf"), b"x").is_err());
}

#[test]
fn nothing_is_left_beside_a_written_file() {
    let node = node(true);
    node.write(&node.paths.pg_hba, "a");
    let names: Vec<_> =
        fs::read_dir(&node.paths.config_dir).expect("a directory").map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn a_failed_write_leaves_the_former_file() {
    let node = node(true);
    node.write(&node.paths.pg_hba, "former");
    // A directory in the way of the temporary file stands for everything that can go wrong before the rename.
    fs::create_dir(node.paths.config_dir.join("pg_hba.conf.quorate.tmp")).expect("a directory");
    assert!(write(&node.paths, node.modes, &node.paths.pg_hba, b"new").is_err());
    assert_eq!(text(&node.paths.pg_hba), "former");
}

/// P3-8
#[test]
fn missing_configuration_files_come_back_from_their_copies() {
    let node = node(true);
    let paths = &node.paths;
    node.write(&paths.pg_hba, "hba");
    node.write(&paths.base_conf, "base");
    save_backups(paths, node.modes, false, false);
    let copy = paths.data_dir.join("pg_hba.conf.backup");
    assert_eq!((text(&copy).as_str(), mode(&copy)), ("hba", 0o600));

    for file in [&paths.pg_hba, &paths.base_conf] {
        fs::remove_file(file).expect("removed");
    }
    node.write(&paths.postgresql_conf, "newer");
    restore_backups(paths, node.modes, false, false);
    assert_eq!((text(&paths.pg_hba), text(&paths.base_conf)), ("hba".to_owned(), "base".to_owned()));
    assert_eq!(text(&paths.postgresql_conf), "newer", "what is there stays");
    assert_eq!(text(&paths.pg_ident), "", "created empty");
    assert_eq!(mode(&paths.pg_hba), 0o644);
}

#[test]
fn redirected_files_are_neither_saved_nor_restored() {
    let node = node(true);
    let paths = &node.paths;
    node.write(&paths.pg_hba, "hba");
    save_backups(paths, node.modes, true, true);
    assert!(!paths.data_dir.join("pg_hba.conf.backup").exists());
    restore_backups(paths, node.modes, true, true);
    assert!(!paths.pg_ident.exists());
    assert!(paths.hba_redirected(Some("/elsewhere")) && !paths.hba_redirected(None));
    assert!(!paths.ident_redirected(paths.pg_ident.to_str()));
}

/// P3-5 (the file)
#[test]
fn a_standby_has_an_empty_signal_file_and_a_primary_none() {
    let node = node(false);
    let paths = &node.paths;
    write_signal(paths, node.modes, true).expect("written");
    assert_eq!((text(&paths.standby_signal).as_str(), mode(&paths.standby_signal)), ("", 0o600));
    write_signal(paths, node.modes, false).expect("written");
    assert!(!paths.standby_signal.exists() && paths.recovery_signal.exists());
    fs::write(paths.data_dir.join("recovery.conf"), "").expect("a file");
    remove_recovery_files(paths).expect("removed");
    remove_recovery_files(paths).expect("nothing to do");
    assert!(!data_dir::has_recovery_file(&paths.data_dir) && !paths.data_dir.join("recovery.conf").exists());
}

/// P3-6 (the file)
#[test]
fn auto_conf_is_rewritten_only_if_something_had_to_go() {
    let node = node(false);
    let file = &node.paths.auto_conf;
    clean_auto_conf(&node.paths, node.modes);
    assert!(!file.exists());
    fs::write(file, "work_mem = '1MB'\nprimary_conninfo = 'x'\n").expect("a file");
    clean_auto_conf(&node.paths, node.modes);
    assert_eq!(text(file), "work_mem = '1MB'\n");
    let before = fs::metadata(file).expect("a file").ino();
    clean_auto_conf(&node.paths, node.modes);
    assert_eq!(fs::metadata(file).expect("a file").ino(), before);
}

#[test]
fn a_trigger_file_is_removed_under_its_configured_name() {
    let node = node(false);
    let data_dir = &node.paths.data_dir;
    for (name, configured) in [("promote", None), ("promote", Some("")), ("go", Some("go"))] {
        fs::write(data_dir.join(name), "").expect("a file");
        remove_trigger_file(data_dir, configured).expect("removed");
        assert!(!data_dir.join(name).exists());
    }
    remove_trigger_file(data_dir, None).expect("nothing to do");
}

#[test]
fn directories_of_parameters_are_made_or_refused() {
    let node = node(false);
    let (data_dir, root) = (&node.paths.data_dir, node.paths.data_dir.parent().expect("a parent"));
    let sockets = root.join("run/pg");
    let list = format!("{}, relative,@abstract,", sockets.display());
    let parameters: Parameters = [("unix_socket_directories", list.as_str())].into_iter().collect();
    ensure_directories(data_dir, &parameters, Some(&root.join("home/pgpass"))).expect("made");
    assert!(sockets.is_dir() && root.join("home").is_dir());
    assert_eq!(mode(&data_dir.join("relative")), 0o700);

    let file = root.join("file");
    fs::write(&file, "").expect("a file");
    let error = ensure_directories(data_dir, &Parameters::default(), Some(&file.join("pgpass")));
    assert_eq!(
        error.map_err(|error| error.to_string()),
        Err(format!("'{}' is defined in `postgresql.pgpass`, is not a directory", file.display()))
    );
    let below = file.join("below");
    let text = below.display().to_string();
    let parameters: Parameters = [("stats_temp_directory", text.as_str())].into_iter().collect();
    let error = ensure_directories(data_dir, &parameters, None);
    assert_eq!(
        error.map_err(|error| error.to_string()),
        Err(format!("'{text}' is defined in stats_temp_directory, couldn't create the directory"))
    );
}

#[test]
fn nothing_is_made_inside_an_empty_data_directory() {
    let node = node(false);
    for name in ["PG_VERSION", "postgresql.conf"] {
        fs::remove_file(node.paths.data_dir.join(name)).expect("removed");
    }
    let parameters: Parameters = [("unix_socket_directories", "sockets")].into_iter().collect();
    ensure_directories(&node.paths.data_dir, &parameters, None).expect("skipped");
    assert!(!node.paths.data_dir.join("sockets").exists());
}

#[test]
fn a_file_that_cannot_be_replaced_is_overwritten_where_it_is() {
    let node = node(true);
    let file = &node.paths.pg_hba;
    fs::write(file, "a longer former content").expect("a file");
    let before = fs::metadata(file).expect("a file").ino();
    overwrite(file, b"new", &Permissions::from_mode(0o640)).expect("written");
    assert_eq!((text(file).as_str(), mode(file)), ("new", 0o640));
    assert_eq!(fs::metadata(file).expect("a file").ino(), before);
    for kind in [io::ErrorKind::PermissionDenied, io::ErrorKind::ResourceBusy] {
        assert!(may_overwrite(&kind.into()));
    }
    assert!(!may_overwrite(&io::ErrorKind::StorageFull.into()), "the former content must survive a full disk");
}
