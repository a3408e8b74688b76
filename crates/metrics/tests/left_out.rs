//! What is told of metrics that are left out. A test alone in its process: what is logged is decided for all threads.

mod common;

use async_container_metrics::{Family, Format, render};
use common::Log;

#[test]
fn a_metric_that_is_left_out_is_told_of_once() {
    let families = vec![
        Family::gauge("jobs", "That there are.").with(3),
        Family::counter("jobs", "That there were.").with(4),
        Family::gauge("rooms-free", "").unit("count").with(1),
        Family::gauge("rooms_free_count", "").with(2),
        Family::gauge("nothing", "Without a value."),
        Family::counter("nothing", "Of these only one can be written.").with(5),
    ];
    let (log, _guard) = Log::begin();

    for format in [Format::Prometheus, Format::OpenMetrics, Format::Prometheus] {
        let text = render(families.clone(), format).unwrap();
        assert!(text.contains("\nacs_jobs 3\n") && !text.contains("acs_jobs_total"), "{text}");
    }

    let text = log.text();
    assert_eq!(log.count("WARN"), 2, "{text}");
    assert!(text.contains("metric=\"acs_jobs_total\" other=\"acs_jobs\""), "{text}");
    assert!(text.contains("metric=\"acs_rooms_free_count\" other=\"acs_rooms_free_count\""), "{text}");
    assert_eq!(log.count("rename one of them"), 2, "{text}");
}
