//! edit-config.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::ctl::editor::Programs;
use crate::ctl::testing::Tool;

const CONFIG: &str = r#"{"ttl":30,"loop_wait":10,"postgresql":{"parameters":{"max_connections":100,"work_mem":"4MB"}}}"#;

async fn tool() -> Tool {
    Tool::with(&[("config", CONFIG)]).await
}

fn stored(tool: &Tool) -> Value {
    serde_json::from_str(&tool.stored("config").expect("the key")).expect("JSON")
}

/// A tool whose editor is this shell script.
fn editing(mut tool: Tool, directory: &tempfile::TempDir, script: &str) -> Tool {
    let path = directory.path().join("vi");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("the directory is writable");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("the file is ours");
    tool.programs = Programs { path: Some(directory.path().as_os_str().to_owned()), ..Programs::default() };
    tool
}

#[tokio::test]
async fn several_settings_make_one_difference() {
    let mut tool = tool().await;
    let outcome = tool.run(&["edit-config", "demo", "-p", "max_connections=101", "-s", "ttl=31", "--force"]).await;
    insta::assert_snapshot!("edit_config_set", outcome.whole());
    assert_eq!(
        stored(&tool),
        json!({"ttl": 31, "loop_wait": 10, "postgresql": {"parameters": {"max_connections": 101, "work_mem": "4MB"}}})
    );
}

#[tokio::test]
async fn removing_the_last_parameter_leaves_nothing_behind() {
    let mut tool = Tool::with(&[("config", r#"{"postgresql":{"parameters":{"work_mem":"4MB"}}}"#)]).await;
    tool.run(&["edit-config", "demo", "-s", "postgresql.parameters.work_mem=null", "--force"]).await;
    assert_eq!(stored(&tool), json!({}));
}

#[tokio::test]
async fn quiet_and_forced_prints_only_that_it_is_done() {
    let mut tool = tool().await;
    let outcome = tool.run(&["edit-config", "demo", "-q", "--force", "-s", "ttl=40"]).await;
    assert_eq!(outcome.printed, "Configuration changed\n");
    assert_eq!(tool.run(&["edit-config", "demo", "-q", "-s", "ttl=40"]).await.printed, "");
    assert_eq!(tool.run(&["edit-config", "demo", "-s", "ttl=40"]).await.printed, "Not changed\n");
}

#[tokio::test]
async fn declining_changes_nothing_and_says_nothing() {
    let mut tool = tool().await.answering(&["x", ""]);
    let outcome = tool.run(&["edit-config", "demo", "-s", "ttl=40", "-q"]).await;
    assert_eq!(outcome.printed, "Apply these changes? [y/N]: Error: invalid input\nApply these changes? [y/N]: ");
    assert!(outcome.failure.is_none());
    assert_eq!(stored(&tool)["ttl"], 30);
}

#[tokio::test]
async fn standard_input_is_applied_only_by_force() {
    let mut tool = tool().await.answering(&["ttl: 41", "postgresql: {parameters: {work_mem: null}}"]);
    let outcome = tool.run(&["edit-config", "demo", "--apply", "-", "-q"]).await;
    assert_eq!(outcome.printed, "Use --force option to apply changes\n");
    assert_eq!(stored(&tool)["ttl"], 30);

    let mut tool = tool.answering(&["ttl: 41", "postgresql: {parameters: {work_mem: null}}"]);
    tool.run(&["edit-config", "demo", "--apply", "-", "--force"]).await;
    assert_eq!(stored(&tool), json!({"ttl": 41, "loop_wait": 10, "postgresql": {"parameters": {"max_connections": 100}}}));
}

#[tokio::test]
async fn replace_comes_before_apply_and_apply_before_set() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).expect("the directory is writable");
        path.to_str().expect("a text").to_owned()
    };
    let (new, patch) = (file("new.yml", "ttl: 1\nloop_wait: 2\na: null\n"), file("patch.yml", "ttl: 3\nb: 4\n"));
    let mut tool = tool().await;
    let arguments = ["edit-config", "demo", "-s", "b=5", "--apply", &patch, "--replace", &new, "--force"];
    tool.run(&arguments).await;
    assert_eq!(stored(&tool), json!({"ttl": 3, "loop_wait": 2, "b": 5}));
}

#[tokio::test]
async fn files_that_are_no_configuration_are_refused_with_their_name() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for text in ["- a\n", "", "a: [\n"] {
        let path = directory.path().join("bad.yml");
        fs::write(&path, text).expect("the directory is writable");
        let path = path.to_str().expect("a text");
        let mut tool = tool().await;
        let outcome = tool.run(&["edit-config", "demo", "--replace", path, "--force"]).await;
        assert!(outcome.error().contains("bad.yml"), "{}", outcome.error());
        assert_eq!(stored(&tool)["ttl"], 30);
    }
    let outcome = tool().await.run(&["edit-config", "demo", "--apply", "/nowhere.yml"]).await;
    assert!(outcome.error().starts_with("/nowhere.yml cannot be read: "), "{}", outcome.error());
}

#[tokio::test]
async fn the_editor_gets_the_document_and_its_result_is_stored() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut tool = editing(tool().await.answering(&["y"]), &directory, "cp \"$1\" \"$0.saw\"; echo 'extra: off' >> \"$1\"");
    let outcome = tool.run(&["edit-config", "demo"]).await;
    let saw = fs::read_to_string(directory.path().join("vi.saw")).expect("the editor ran");
    assert_eq!(saw, "loop_wait: 10\npostgresql:\n  parameters:\n    max_connections: 100\n    work_mem: 4MB\nttl: 30\n");
    assert!(outcome.printed.ends_with("+extra: off\nApply these changes? [y/N]: Configuration changed\n"), "{}", outcome.printed);
    assert_eq!(stored(&tool)["extra"], json!(false));
}

#[tokio::test]
async fn a_change_made_while_the_editor_was_open_is_not_overwritten() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let tool = tool().await.meanwhile("config", r#"{"ttl":99}"#).answering(&["y"]);
    let mut tool = editing(tool, &directory, "echo 'extra: 1' >> \"$1\"");
    let outcome = tool.run(&["edit-config", "demo"]).await;
    assert_eq!(outcome.error(), "Config modification aborted due to concurrent changes");
    assert_eq!(stored(&tool), json!({"ttl": 99}));
}

#[tokio::test]
async fn an_edited_text_that_is_no_configuration_is_kept() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut tool = editing(tool().await, &directory, "echo '- just a list' > \"$1\"");
    let error = tool.run(&["edit-config", "demo"]).await.error();
    let (_, tail) = error.split_once("kept in `").expect("the file is named");
    let (path, _) = tail.split_once('`').expect("the file is named");
    assert_eq!(fs::read_to_string(path).expect("it is there"), "- just a list\n");
    fs::remove_file(path).expect("it is ours");
    assert_eq!(stored(&tool)["ttl"], 30);
}

#[tokio::test]
async fn an_unchanged_document_is_not_written() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut tool = editing(tool().await, &directory, "true");
    assert_eq!(tool.run(&["edit-config", "demo"]).await.printed, "Not changed\n");
}

#[tokio::test]
async fn a_cluster_without_configuration_cannot_be_edited() {
    let outcome = Tool::with(&[]).await.run(&["edit-config", "demo", "-s", "ttl=1", "--force"]).await;
    assert_eq!(outcome.error(), "The config key does not exist in the cluster demo");
}

#[tokio::test]
async fn a_damaged_configuration_can_be_repaired() {
    let mut tool = Tool::with(&[("config", "not json")]).await;
    tool.run(&["edit-config", "demo", "-s", "ttl=30", "--force"]).await;
    assert_eq!(stored(&tool), json!({"ttl": 30}));
}
