//! Variables that are expanded after inheritance: `__clabNodeName__` and its like.

use std::path::Path;

/// Expands the variables of one node in `text`. `lab_dir` is the lab's folder.
pub(crate) fn expand(text: &str, node: &str, lab: &str, lab_dir: &Path) -> String {
    if !text.contains("__clab") {
        return text.to_owned();
    }
    let dir = lab_dir.display().to_string();
    text.replace("__clabNodeName__", node)
        .replace("__clabLabName__", &format!("clab-{lab}"))
        .replace("__clabNodeDir__", &format!("{dir}/{node}"))
        .replace("__clabDir__", &dir)
}

/// Expands `__gitBranch__` and `__gitHash__` in a lab's name; both are `none` outside a repository.
pub(crate) fn expand_git(text: &str, git: Option<&(String, String)>) -> String {
    let (branch, hash) = git.map_or(("none", "none"), |(b, h)| (b.as_str(), h.as_str()));
    let hash: String = hash.chars().take(7).collect();
    text.replace("__gitBranch__", &branch.replace('/', "-")).replace("__gitHash__", &hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables() {
        let lab_dir = Path::new("/l/clab-demo");
        let text = "__clabNodeDir__/a:/__clabNodeName__ __clabLabName__ __clabDir__ __clabOther__";
        assert_eq!(
            expand(text, "n1", "demo", lab_dir),
            "/l/clab-demo/n1/a:/n1 clab-demo /l/clab-demo __clabOther__"
        );
        let git = ("feature/x".to_owned(), "0123456789abcdef".to_owned());
        assert_eq!(expand_git("a-__gitBranch__-__gitHash__", Some(&git)), "a-feature-x-0123456");
        assert_eq!(expand_git("a-__gitHash__", None), "a-none");
    }
}
