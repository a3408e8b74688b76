//! Around another allocator.

#[path = "support/alone.rs"]
mod alone;

use std::hint::black_box;

use alone::alone;
use async_container_diagnostics::memory::{self, Allocator, AllocatorProfile, Mode, Options, Sampling};
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: Allocator<MiMalloc> = Allocator::new(MiMalloc);

#[test]
fn what_is_kept_is_found() {
    let _alone = alone();

    for mode in [Mode::Full, Mode::SAMPLED] {
        let sampling = Sampling::start(&Options::new().mode(mode)).unwrap();
        hoard::keep(5000, 8 << 10);
        let sample = sampling.finish().unwrap();
        hoard::let_go();
        assert_eq!(sample.by_crate[0].name, "hoard", "{sample}");
        assert!(sample.by_location[0].name.ends_with(&format!("hoard/src/lib.rs:{}", hoard::LINE)), "{sample}");
    }

    assert_eq!(memory::recording(), None);
}

#[test]
fn what_it_holds_is_said_to_be_unknown() {
    let _alone = alone();
    let profile = AllocatorProfile::start().unwrap();
    drop(black_box(vec![1_u8; 100]));
    let report = profile.stop().unwrap();
    assert!(report.counts.unwrap().allocations > 0);
    assert_eq!(report.after.totals.allocator, None);
    assert!(report.notes.iter().any(|note| note.contains("Allocator::totals")));
}
