//! What is told of metrics that are left out. A test alone in its process: what is logged is decided for all threads.

mod common;

use async_container_metrics::{Family, Format, render};
use common::Log;

#[test]
fn what_is_left_out_is_told_of_once() {
    let mut twice = Family::gauge("sizes", "").unit("bytes");
    twice.push([("a b", "1")], 1);
    twice.push([("a-b", "1")], 2);
    twice.push([("a_b", "1")], 3);
    let families = vec![
        Family::gauge("jobs", "That there are.").with(3),
        Family::counter("jobs", "That there were, which is no clash.").with(4),
        Family::gauge("jobs_total", "And this is one.").with(5),
        Family::gauge("rooms-free", "").unit("count").with(1),
        Family::gauge("rooms_free_count", "").with(2),
        Family::gauge("nothing", "Without a value."),
        Family::counter("nothing", "Of these only one has a value.").with(5),
        Family::counter("debts", "").with(-1),
        twice,
    ];
    let (log, _guard) = Log::begin();

    for format in [Format::Prometheus, Format::OpenMetrics, Format::Prometheus] {
        let text = render(families.clone(), format).unwrap();
        let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let expected = [
            "acs_jobs 3",
            "acs_jobs_total 4",
            "acs_rooms_free_count 1",
            "acs_nothing_total 5",
            "acs_sizes_bytes{a_b=\"1\"} 1",
        ];
        assert_eq!(samples, expected);
    }

    let text = log.text();
    assert_eq!(log.count("WARN"), 4, "{text}");
    assert!(text.contains("metric=\"acs_jobs_total\" other=\"acs_jobs_total\""), "{text}");
    assert!(text.contains("metric=\"acs_rooms_free_count\" other=\"acs_rooms_free_count\""), "{text}");
    assert_eq!(log.count("rename one of them"), 2, "{text}");
    assert!(text.contains("metric=\"acs_debts_total\" labels=[] reason=\"it cannot be one of its type\""), "{text}");
    let labels = "labels=[(\"a_b\", \"1\")] reason=\"another one has the same labels\"";
    assert!(text.contains(&format!("metric=\"acs_sizes_bytes\" {labels}")), "{text}");
}
