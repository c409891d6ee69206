//! The difference of two texts, as `edit-config` shows it.

use similar::TextDiff;

/// Unified, three lines of context, headings without names.
pub fn unified(before: &str, after: &str) -> String {
    let (before, after) = (closed(before), closed(after));
    let diff = TextDiff::from_lines(before.as_str(), after.as_str());
    let body = diff.unified_diff().context_radius(3).to_string();
    if body.is_empty() { body } else { format!("--- \n+++ \n{body}") }
}

/// The text with exactly one newline at its end.
fn closed(text: &str) -> String {
    format!("{}\n", text.trim_end_matches('\n'))
}

/// The same for a terminal: added lines green, removed lines red, headings of hunks cyan.
pub fn coloured(diff: &str) -> String {
    let paint = |line: &str| match line.as_bytes().first() {
        _ if line.starts_with("--- ") || line.starts_with("+++ ") => format!("\x1b[33m{line}\x1b[0m\n"),
        Some(b'+') => format!("\x1b[32m{line}\x1b[0m\n"),
        Some(b'-') => format!("\x1b[31m{line}\x1b[0m\n"),
        Some(b'@') => format!("\x1b[36m{line}\x1b[0m\n"),
        _ => format!("{line}\n"),
    };
    diff.lines().map(paint).collect()
}

#[cfg(test)]
mod tests {
    use super::{coloured, unified};

    #[test]
    fn headings_have_no_names_and_hunks_three_lines_of_context() {
        let before = "a\nb\nc\nd\ne\nf\ng\nh\n";
        let after = "a\nb\nc\nd\ne\nF\ng\nh";
        assert_eq!(unified(before, after), "--- \n+++ \n@@ -3,6 +3,6 @@\n c\n d\n e\n-f\n+F\n g\n h\n");
        assert_eq!(unified("a\n", "a"), "");
    }

    #[test]
    fn a_text_of_one_line_has_short_hunk_headings() {
        assert_eq!(unified("{}\n", "ttl: 31\n"), "--- \n+++ \n@@ -1 +1 @@\n-{}\n+ttl: 31\n");
    }

    #[test]
    fn colours_say_what_is_added_and_removed() {
        assert_eq!(coloured("@@ -1 +1 @@\n-a\n+b\n c\n"), "\x1b[36m@@ -1 +1 @@\x1b[0m\n\x1b[31m-a\x1b[0m\n\x1b[32m+b\x1b[0m\n c\n");
    }
}
