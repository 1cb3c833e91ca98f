//! The examples of the crate's documentation run, and are as short as it says.

use std::process::Command;

#[test]
fn the_example_host_runs_the_example_plugin() {
    let cargo = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO"))
            .args(arguments)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    cargo(&["build", "--quiet", "--examples"]);
    let text = cargo(&["run", "--quiet", "--example", "host"]);
    for line in ["encrypted: true", "[Stderr] greeting world", "Good morning, world.", "stopped by Request"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    for source in [include_str!("../examples/host.rs"), include_str!("../examples/plugin.rs")] {
        assert!(source.lines().count() < 60);
    }
}
