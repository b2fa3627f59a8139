//! Probes, and what good health is.

use super::*;

const LAST: &str = "unreplied = 30\n";

fn with(sections: &str) -> Result<Config, ConfigError> {
    changed(LAST, &format!("{LAST}{sections}\n"))
}

fn said(sections: &str) -> String {
    let error = with(sections).expect_err("it is refused").to_string();
    error.lines().next().unwrap_or("").to_owned()
}

#[test]
fn probes_are_read_with_their_defaults() {
    let config = with(
        "[[probe]]\ntarget = \"192.0.2.1\"\n[[probe]]\ntarget = \"fe80::1\"\n\
                       interface = \"out0\"\ninterval_ms = 100\nlost = 5",
    )
    .unwrap();
    let second = Duration::from_secs(1);
    let first = probe::Probe {
        target: "192.0.2.1".parse().unwrap(),
        interface: None,
        interval: second,
        lost: 3,
    };
    assert_eq!(config.probes[0], first);
    assert_eq!(config.probes[1].interface.as_deref(), Some("out0"));
    assert_eq!((config.probes[1].interval.as_millis(), config.probes[1].lost), (100, 5));
}

#[test]
fn a_probe_that_can_not_be_is_refused() {
    let target = "expected an address such as \"192.0.2.1\" or \"2001:db8::1\"";
    for (keys, expected) in [
        ("lost = 1", format!("29:1: [[probe]] without target; {target}")),
        ("target = \"gw\"", format!("30:10: target is \"gw\"; {target}")),
        (
            "target = \"224.0.0.1\"",
            format!("30:10: target is \"224.0.0.1\", which no single station can have; {target}"),
        ),
        (
            "target = \"fe80::1\"",
            "30:10: target is \"fe80::1\", which is another station on each link; expected an \
             interface beside it"
                .to_owned(),
        ),
        (
            "target = \"192.0.2.1\"\nlost = 0",
            "31:8: lost is 0; expected a number from 1 to 100".to_owned(),
        ),
        (
            "target = \"192.0.2.1\"\ninterval_ms = 9",
            "31:15: interval_ms is 9; expected milliseconds from 10 to 60000".to_owned(),
        ),
        (
            "target = \"192.0.2.1\"\n[[probe]]\ntarget = \"192.0.2.1\"",
            "32:10: target is \"192.0.2.1\", listed twice; expected each target once".to_owned(),
        ),
    ] {
        assert_eq!(said(&format!("[[probe]]\n{keys}")), format!("f:{expected}"));
    }
    let many: String = (1..=17).map(|n| format!("[[probe]]\ntarget = \"192.0.2.{n}\"\n")).collect();
    assert_eq!(said(&many), "f:61:1: [[probe]] number 17; expected at most 16 sections [[probe]]");
}

#[test]
fn limits_of_health_have_bounds() {
    let health = with("[health]\nrecovery_ms = 100\noverload_percent = 100\nlate_ms = 7").unwrap();
    assert_eq!(health.health.recovery.as_millis(), 100);
    assert_eq!((health.health.table_percent, health.health.late.as_millis()), (100, 7));
    for (key, expected) in [
        ("recovery_ms = 99", "milliseconds from 100 to 3600000"),
        ("overload_ms = 999", "milliseconds from 1000 to 60000"),
        ("overload_percent = 9", "a number from 10 to 100"),
        ("steal_percent = 0", "a number from 1 to 100"),
        ("late_ms = 0", "milliseconds from 1 to 60000"),
        ("drops_per_second = 0", "a number from 1 to 1000000000"),
    ] {
        let (name, value) = key.split_once(" = ").unwrap();
        let column = name.len() + 4;
        let words = format!("f:30:{column}: {name} is {value}; expected {expected}");
        assert_eq!(said(&format!("[health]\n{key}")), words);
    }
}
