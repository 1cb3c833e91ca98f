use super::*;

fn parse(text: &str) -> Vec<Step> {
    Scenario::parse(text).unwrap_or_else(|refusal| panic!("{refusal:?}\n{text}")).steps
}

fn refused(text: &str) -> String {
    let Refusal { line, what } = Scenario::parse(text).expect_err(text);
    format!("{line}: {what}")
}

#[test]
fn a_page_is_read_in_its_order() {
    let steps = parse(
        "# A page\n\nText with `$ code`.\n\n```toml\nnot = \"run\"\n```\n\n<!-- file: c.toml -->\n```toml\na = 1\n```\n\
         \n```sh\ncd x\nls\n```\n\n```console\n$ km a\nout\n$ km b \\\n> --c\n[exit 6]\n```\n\
         \n```console background\n$ km-pack serve\nnote: listening\n```\n\n<!-- not run: no systemd here -->\n```sh\nsystemctl\n```\n",
    );
    let shown: Vec<(usize, String)> = steps
        .into_iter()
        .map(|Step { line, what }| match what {
            What::Command { text, expected } => {
                (line, format!("{text:?} {:?} {} {:?}", expected.lines, expected.status, expected.place))
            }
            What::Background { text, expected } => (line, format!("{text:?} & {:?}", expected.lines)),
            What::Plain(text) => (line, text),
            What::File { path, content } => (line, format!("{path}: {content:?}")),
            What::NotRun { why } => (line, format!("not run: {why}")),
        })
        .collect();
    let expected = [
        (10, "c.toml: \"a = 1\\n\"".to_owned()),
        (15, "cd x".to_owned()),
        (16, "ls".to_owned()),
        (20, r#""km a" ["out"] 0 (21, 22)"#.to_owned()),
        (22, r#""km b \\\n--c" [] 6 (24, 25)"#.to_owned()),
        (28, r#""km-pack serve" & ["note: listening"]"#.to_owned()),
        (33, "not run: no systemd here".to_owned()),
    ];
    assert_eq!(shown, expected);
}

#[test]
fn the_comment_at_the_start_says_what_is_needed() {
    let text = "<!-- scenario\ngiven = \"customer\"\nneeds = [\"npx\"]\nslow = true\ntimeout = \"2min\"\n\
                alias = { \"https://a\" = \"$B\" }\n-->\n# T\n```sh\nls\n```\n";
    let Scenario { title, head, steps } = Scenario::parse(text).unwrap();
    assert_eq!((title.as_str(), head.given, head.slow), ("T", Given::Customer, true));
    assert_eq!((head.needs, head.timeout), (vec!["npx".to_owned()], Some(Duration::from_secs(120))));
    assert_eq!((head.alias["https://a"].as_str(), steps[0].line), ("$B", 10));
    assert!(Given::Nothing < Given::Packages && Given::Packages < Given::Api && Given::Api < Given::Customer);
}

#[test]
fn blocks_in_lists_keep_their_indentation() {
    let steps = parse("# T\n\n1. first\n\n   ```console\n   $ ls\n     indented\n   ```\n");
    let What::Command { text, expected } = &steps[0].what else { panic!("{steps:?}") };
    assert_eq!(
        (text.as_str(), &expected.lines[..], expected.indent.as_str()),
        ("ls", &["  indented".to_owned()][..], "   ")
    );
}

#[test]
fn longer_fences_hold_shorter_ones_and_titles_are_outside_of_blocks() {
    let text = "````markdown\n# not a title\n```sh\nnot run\n```\n````\n~~~text\n# nor this\n~~~\n# Title\n```sh\nls\n```\n";
    let scenario = Scenario::parse(text).unwrap();
    assert_eq!((scenario.title.as_str(), scenario.steps.len()), ("Title", 1));
}

#[test]
fn output_may_look_like_much() {
    let steps = parse("# T\n```console\n$ a\n\n> quoted\n$5\n[exit 1] is no status\n$ b\n[exit 141]\n```\n");
    let What::Command { expected, .. } = &steps[0].what else { panic!("{steps:?}") };
    assert_eq!(expected.lines, ["", "> quoted", "$5", "[exit 1] is no status"]);
}

#[test]
fn what_stands_in_a_comment_is_not_run() {
    let steps =
        parse("\u{feff}# T\n<!--\n```console\n$ not run\n```\n-->\n<!-- a\n# b --> c\n```sh\nls\n```\n");
    assert_eq!(steps, [Step { line: 10, what: What::Plain("ls".to_owned()) }]);
    let text =
        "\u{feff}<!-- scenario\nslow = true\n-->\n# T\n```sh\nls\n```\n```markdown\n<!-- scenario\n```\n";
    assert!(Scenario::parse(text).unwrap().head.slow);
}

#[test]
fn blocks_that_look_like_commands_are_run_or_say_why_not() {
    for language in ["", "consle", "Console", "text", "shell"] {
        let text = |remark: &str| format!("# T\n{remark}```{language}\n$ ls\n```\n```sh\nls\n```\n");
        assert!(refused(&text("")).starts_with("2: "), "{language}");
        assert_eq!(parse(&text("<!-- not run: why -->\n")).len(), 2, "{language}");
        assert_eq!(parse(&text("<!-- file: x -->\n")).len(), 2, "{language}");
    }
}

/// What `automate.toml` names is found from the root of the checkout.
#[test]
fn all_pages_of_this_checkout_are_understood() {
    fn check(path: &std::path::Path) -> usize {
        if path.is_dir() {
            let entries = std::fs::read_dir(path).unwrap();
            return entries.map(|entry| check(&entry.unwrap().path())).sum();
        }
        if path.extension().is_none_or(|extension| extension != "md") {
            return 0;
        }
        let text = std::fs::read_to_string(path).unwrap();
        Scenario::parse(&text).unwrap_or_else(|refusal| panic!("{}: {refusal:?}", path.display()));
        1
    }
    let checkout = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let config = super::super::config::Config::read(checkout).unwrap();
    let pages: usize = config.scenarios.iter().map(|path| check(&checkout.join(path))).sum();
    assert!(pages > config.scenarios.len());
}

#[test]
fn what_is_not_understood_is_refused_with_its_line() {
    for (text, expected) in [
        ("```sh\nls\n```\n", "1: there is no heading"),
        ("# T\ntext\n", "1: there is nothing to run"),
        ("# T\n<!-- not run: why -->\n```sh\nls\n```\n", "1: there is nothing to run"),
        ("# T\n\n```sh\nls\n", "3: the block has no end"),
        ("# T\n```console\nls\n```\n", "3: a transcript begins with a command"),
        ("# T\n```console\n```\n", "2: the transcript is empty"),
        ("# T\n```console sorted\n$ ls\n```\n", "2: `console sorted` is not understood"),
        ("# T\n```sh -x\nls\n```\n", "2: `sh -x` is not understood"),
        ("# T\n```sh\nls\necho 'a\n```\n", "4: the command does not end"),
        ("# T\n```console\n$ a\n[exit 1]\nmore\n```\n", "5: after the exit status"),
        ("# T\n```console background\n$ a\n$ b\n```\n", "2: a block in the background holds one"),
        ("# T\n```console background\n$ a\n[exit 1]\n```\n", "3: what goes on in the background"),
        ("# T\n```console background\n$ a\n```\n", "3: a block in the background shows what to wait for"),
        ("# T\n```console background\n$ a\n...\n[..]\n```\n", "3: a block in the background shows"),
        ("\n<!-- scenario\nslow = true\n-->\n# T\n", "2: `<!-- scenario` is the file's first line"),
        ("# T\n<!--scenario slow = true -->\n", "2: `<!-- scenario` is the file's first line"),
        ("<!-- scenario slow = true -->\n# T\n", "1: `<!-- scenario` is the file's first line"),
        ("# T\n```consle\n$ a\n```\n", "2: a transcript is `console`"),
        ("# T\n```bash\nls\n```\n", "2: `bash` is not run; write `sh`"),
        ("# T\n```Shell\nls\n```\n", "2: `Shell` is not run; write `sh`"),
        ("# T\n<!-- not run: a\nb -->\n```sh\nls\n```\n", "2: the comment stands alone"),
        ("# T\n<!-- file: a --> b\n```sh\nls\n```\n", "2: the comment stands alone"),
        ("# T\n<!-- a\n```sh\nls\n```\n", "2: the comment has no end"),
        ("# T\n<!-- file: a -->\ntext\n```sh\nls\n```\n", "2: no block follows directly"),
        ("# T\n```sh\nls\n```\n<!-- file: a -->\n", "5: no block follows directly"),
        ("# T\n<!-- file: -->\n```toml\n```\n", "2: nothing stands after the colon"),
        ("# T\n<!-- not run: -->\n```sh\n```\n", "2: nothing stands after the colon"),
        ("<!-- scenario\ngiven = \"all\"\n-->\n# T\n", "2: unknown variant `all`"),
        ("<!-- scenario\nslow = true\ncolour = 1\n-->\n# T\n", "3: unknown field `colour`"),
        ("<!-- scenario\ntimeout = \"soon\"\n-->\n# T\n", "2: \"soon\" is not a time"),
        ("<!-- scenario\ntimeout = \"0s\"\n-->\n# T\n", "2: \"0s\" is not a time"),
        ("<!-- scenario\nslow = true\n", "1: the comment has no end"),
    ] {
        let refusal = refused(text);
        assert!(refusal.starts_with(expected), "{refusal}\n{text}");
    }
}
