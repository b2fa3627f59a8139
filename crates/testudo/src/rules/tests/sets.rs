//! Sets: large ones are one rule, and may stand in files of their own.

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use testudo_datapath::PrefixSet;
use testudo_packet::set::SetId;

use super::super::addresses::{FEW, MOST};
use super::*;

/// So many prefixes from here on, as a list has them.
fn many(net: &str, count: usize) -> String {
    (0..count).map(|n| format!("{net}.{}.{}.0/24", n / 256, n % 256)).collect::<Vec<_>>().join(", ")
}

/// The rules of a text, whose sets are numbered as they come.
fn numbered(lines: &Lines) -> (Vec<packet::Rule>, Vec<Arc<PrefixSet>>) {
    let sets = RefCell::new(Vec::new());
    let set = |set: &Arc<PrefixSet>| {
        let mut sets = sets.borrow_mut();
        let at = sets.iter().position(|known| known == set).unwrap_or_else(|| {
            sets.push(set.clone());
            sets.len() - 1
        });
        SetId::new(at as u32 + 1).ok_or(())
    };
    let made = compile(lines, |_| 0, |_| Ok(7), set).expect("rules");
    (made.rules, sets.into_inner())
}

#[test]
fn few_prefixes_are_a_rule_each_and_more_are_one_set() {
    for (count, rules, sets) in [(FEW, FEW * 2, 0), (FEW + 1, 2, 1)] {
        let lines =
            read(&format!("saddr {{ {} }} proto tcp dport {{ 1, 2 }} drop", many("10", count)));
        assert_eq!(lines.size(), rules);
        let (made, named) = numbered(&lines);
        assert_eq!((made.len(), named.len()), (rules, sets));
        assert_eq!(made[0].source_set, SetId::new(sets as u32));
        assert_eq!(made[0].source == packet::Prefix::ANY, sets == 1);
    }
}

#[test]
fn lines_that_name_the_same_set_share_it() {
    let text = format!(
        "set bad = {{ {} }}\nset more = {{ @bad, fd00::/8 }}\nsaddr @bad drop\ndaddr @bad drop\n\
         saddr @bad daddr @more proto udp dport {{ 1, 2, 3 }} drop\nsaddr {{ @more, 192.0.2.0/24 }} drop",
        many("20", 300)
    );
    let lines = read(&text);
    let (rules, sets) = numbered(&lines);
    assert_eq!(lines.size(), rules.len());
    let ends = |rule: &packet::Rule| (rule.source_set, rule.destination_set);
    let set = SetId::new;
    let both = (set(1), set(2));
    let expected = [(set(1), None), (None, set(1)), both, both, both, (set(3), None)];
    assert_eq!(rules.iter().map(ends).collect::<Vec<_>>(), expected);
    assert_eq!(sets.iter().map(|set| set.len()).collect::<Vec<_>>(), [300, 301, 302]);
    let shown: Vec<_> = lines.1.iter().map(|set| (set.name.as_str(), set.at, set.listed)).collect();
    assert_eq!(shown, [("bad", 1, 300), ("more", 2, 301)]);
}

/// A line keeps its number when what is in its set changes: the name is what it says.
#[test]
fn a_line_about_a_large_set_is_known_again_by_its_name() {
    let line = |count| {
        let lines = read(&format!("set bad = {{ {} }}\nsaddr @bad drop", many("20", count)));
        (lines.0[0].says.to_string(), lines.0[0].says.size())
    };
    assert_eq!(line(300), ("saddr @bad drop".to_owned(), 1));
    assert_eq!(line(300), line(301));
    assert_eq!(line(2).0, "saddr { 20.0.0.0/24, 20.0.1.0/24 } drop");
}

#[test]
fn a_set_has_the_families_of_its_prefixes() {
    let both = format!("set s = {{ {}, fd00::/8 }}", many("10", 9));
    let v4 = format!("set s = {{ {} }}", many("10", 9));
    for (set, line, size) in [
        (&both, "saddr @s daddr { 192.0.2.0/24, fd01::/16 } drop", 2),
        (&both, "saddr @s daddr @s drop", 1),
        (&both, "saddr @s proto icmpv6 drop", 1),
        (&v4, "saddr @s daddr { 192.0.2.0/24, fd01::/16 } drop", 1),
        (&v4, "saddr @s proto icmp type echo-request drop", 1),
    ] {
        assert_eq!(read(&format!("{set}\n{line}")).size(), size, "{line}");
    }
    let refused = parse(
        Path::new("f"),
        &format!("{v4}\nsaddr @s proto icmpv6 drop"),
        Surroundings::default(),
    );
    let said = refused.expect_err("no packet").to_string();
    assert!(
        said.starts_with("f:2:7: addresses of the other family than proto; expected icmp"),
        "{said}"
    );
}

/// A directory of the test's own, which goes with it.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("testudo-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).expect("a file");
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).expect("the directory");
    }
}

fn load(directory: &Directory, rules: &str) -> Result<Lines, String> {
    let file = directory.file("f.rules", rules);
    super::super::load(&file, Surroundings::default()).map_err(|error| error.to_string())
}

#[test]
fn a_set_may_stand_in_a_file_of_its_own() {
    let directory = Directory::new("set-file");
    let list = many("20", 5000).replace(", ", "\n") + "\n20.0.0.0/24 # again\n20.0.0.0/16\n";
    let bad = directory.file("bad.list", &list);
    let rules = "set bad = file \"bad.list\"\nsaddr @bad drop\nsaddr { @bad, 30.0.0.0/8 } reject";
    let lines = load(&directory, rules).expect_err("a prefix twice in a list of a line");
    assert!(lines.contains("20.0.0.0/24, listed twice"), "{lines}");
    let lines = load(&directory, "set bad = file \"bad.list\"\nsaddr @bad drop").expect("lines");
    let [set] = &lines.1[..] else { panic!("{} sets", lines.1.len()) };
    assert_eq!((set.listed, set.file.as_ref()), (5002, Some(&bad)));
    // All /24 of the first 256 are within the last one.
    assert_eq!(set.addresses.set.len(), 5000 - 256 + 1);
    assert_eq!(numbered(&lines).1, std::slice::from_ref(&set.addresses.set));
}

#[test]
fn a_wrong_file_is_told_where_it_is_wrong() {
    let directory = Directory::new("wrong-set-file");
    let bad = directory.file("bad.list", "10.0.0.0/8\n10.0.0.0/33\n");
    let said = load(&directory, "drop\nset bad = file \"bad.list\"\n").expect_err("wrong");
    let place = format!("{}:2:1: 10.0.0.0/33, longer than the 32 bits", bad.display());
    assert!(
        said.starts_with(&place) && said.ends_with(" 2 | 10.0.0.0/33\n   | ^^^^^^^^^^^"),
        "{said}"
    );
    let said = load(&directory, "drop\nset bad = file \"none\"\n").expect_err("missing");
    let place = format!("{}:2:16: ", directory.0.join("f.rules").display());
    assert!(said.starts_with(&place), "{said}");
    assert!(
        said.contains("No such file") && said.contains("expected a readable file of prefixes"),
        "{said}"
    );
    for (line, said) in [
        ("set bad = file", "1:15: the end of the line; expected a path between quotes"),
        ("set bad = file bad.list", "1:16: bad.list; expected a path between quotes"),
        ("set bad = file \"bad.list\" drop", "1:27: drop; expected the end of the line"),
    ] {
        let seen = load(&directory, line).expect_err("wrong");
        assert!(seen.contains(said), "{line}: {seen}");
    }
}

#[test]
fn all_sets_of_a_file_have_so_many_prefixes_together_and_no_more() {
    let directory = Directory::new("many-sets");
    let host = |n: usize| {
        format!("{}.{}.{}.{}\n", 20 + n / 0x100_0000, n / 0x1_0000 % 256, n / 256 % 256, n % 256)
    };
    let list: String = (0..MOST).map(host).collect();
    directory.file("full.list", &list);
    let full = "set full = file \"full.list\"\nsaddr @full drop\ndaddr @full drop\n";
    assert_eq!(load(&directory, full).expect("just as many").0.len(), 2);
    let said = load(&directory, &format!("{full}set a = {{ 10.0.0.0/8 }}")).expect_err("one more");
    assert!(
        said.contains(":4:1: 1 prefixes, 524289 with those before them; expected at most 524288 in all sets of a file"),
        "{said}"
    );
    let line = format!("{full}saddr {{ @full, 10.0.0.0/8 }} drop");
    assert!(
        load(&directory, &line)
            .expect_err("another")
            .contains(":4:7: 524289 prefixes, 1048577 with")
    );
}
