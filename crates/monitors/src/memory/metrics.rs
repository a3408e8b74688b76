//! What the memory monitor knows, as numbers.

use super::report::MemoryStatus;
use crate::metrics::Family;

/// The families of a report. What there is no limit for, and what could not be read, is left out.
pub(super) fn families(status: &MemoryStatus) -> Vec<Family> {
    let gauge = |name: &str, help: &str| Family::gauge(name, help).unit("bytes");
    let mut size = gauge("memory_size", "The memory of a worker, what is shared counted in part.");
    let mut resident = gauge("memory_resident_size", "The resident memory of a worker, what is shared counted whole.");
    let mut private = gauge("memory_private_size", "The memory of a worker that it shares with nobody.");
    let mut shared = gauge("memory_shared_size", "The memory of a worker that others have, too.");
    let mut maximum = gauge("memory_maximum_size", "The most memory that a worker was seen to have.");
    let mut increases = Family::gauge("memory_increases", "How often a worker grew by more than the threshold.");
    let mut restarting = Family::gauge("memory_restarting", "Whether the replacement of a worker was asked for.");
    let mut samples = Family::counter("memory_samples", "How often a worker was measured.");
    let mut left_alone = Family::gauge(
        "memory_left_alone",
        "For how much longer a worker is not restarted though it should be, because that does not help; 0 if it is not so.",
    )
    .unit("seconds");

    for process in &status.processes {
        let process_id = process.process_id.to_string();
        let labels = [("process_id", process_id.as_str()), ("name", process.name.as_str())];
        size.push(labels, process.current_size);
        resident.push(labels, process.current_resident_size);
        private.push(labels, process.current_private_size);
        shared.push(labels, process.current_shared_size);
        maximum.push(labels, process.maximum_size);
        increases.push(labels, process.increase_count);
        restarting.push(labels, process.restarting);
        samples.push(labels, process.sample_count);
        left_alone.push(labels, process.left_alone.unwrap_or(0.0));
    }

    let all_left_alone = Family::gauge(
        "memory_all_left_alone",
        "For how much longer nobody is restarted for the sake of all, because that does not help; 0 if it is not so.",
    )
    .unit("seconds")
    .with(status.left_alone.unwrap_or(0.0));
    let mut families =
        vec![size, resident, private, shared, maximum, increases, restarting, samples, left_alone, all_left_alone];
    families.push(
        gauge("memory_total_size", "The memory of all workers, what they share counted once.").with(status.total_size),
    );
    let optional = [
        ("memory_size_limit", "The limit for one worker.", status.maximum_size_limit),
        ("memory_threshold_size", "The growth that counts as an increase.", Some(status.threshold_size)),
        ("memory_total_size_limit", "The limit for all workers.", status.total_size_limit),
        ("memory_free_size_minimum", "What is to be left on the host, or in the cgroup.", status.free_size_minimum),
        ("memory_host_size", "The memory of the host, or of the cgroup.", status.host.map(|host| host.total_size)),
        ("memory_host_available_size", "What of that can be had.", status.host.map(|host| host.available_size)),
        ("memory_host_free_size", "What of that nobody uses at all.", status.host.map(|host| host.free_size)),
        (
            "memory_host_reclaimable_size",
            "What of that is in use, and would be given up on demand.",
            status.host.map(|host| host.reclaimable_size),
        ),
        ("memory_host_used_size", "What of that cannot be had.", status.host.map(|host| host.used_size)),
        ("memory_host_swap_size", "The swap space.", status.host.map(|host| host.swap_total_size)),
        ("memory_host_swap_used_size", "What of that is used.", status.host.map(|host| host.swap_used_size)),
    ];
    if let Some(pressure) = status.pressure {
        let help = "The part of the last ten seconds in which some programs, or all, waited for memory.";
        let mut family = Family::gauge("memory_pressure", help).unit("ratio");
        family.push([("who", "some")], pressure.some);
        family.push([("who", "all")], pressure.full);
        families.push(family);
    }
    if let Some(limit) = status.increase_limit {
        families.push(Family::gauge("memory_increase_limit", "The limit for the increases of one worker.").with(limit));
    }
    if let Some(limit) = status.pressure_limit {
        families.push(Family::gauge("memory_pressure_limit", "The limit for the pressure.").unit("ratio").with(limit));
    }
    families.extend(optional.into_iter().filter_map(|(name, help, value)| Some(gauge(name, help).with(value?))));
    families
}
