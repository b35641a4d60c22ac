//! Failover regions: the parts of a job that fail and restart by themselves (Flink's pipelined regions, §12.13).

use crate::types::ChainId;
use std::collections::{BTreeMap, BTreeSet};

/// Cuts a graph into its connected components, in order of their first chains. `edges`: which chain writes to which.
///
/// Records flow along every edge while both its ends run, so a part that is restarted from a checkpoint takes all with it that it is connected to,
/// in either direction: what is before it must send again, and what is behind it must forget what it was sent. What it is not connected to
/// shares no record with it.
///
/// Unlike in Flink, the unit is the chain, not the subtask: subtasks of one chain get their splits and their state dealt out together, and
/// what their sink has prepared is recovered together.
pub(crate) fn failover_regions(
    chains: impl IntoIterator<Item = ChainId>,
    edges: impl IntoIterator<Item = (ChainId, ChainId)>,
) -> Vec<BTreeSet<ChainId>> {
    let mut neighbours: BTreeMap<ChainId, BTreeSet<ChainId>> =
        chains.into_iter().map(|chain| (chain, BTreeSet::new())).collect();
    for (one, other) in edges {
        neighbours.entry(one).or_default().insert(other);
        neighbours.entry(other).or_default().insert(one);
    }
    let mut regions = Vec::new();
    while let Some((&first, _)) = neighbours.first_key_value() {
        let (mut region, mut next) = (BTreeSet::new(), vec![first]);
        while let Some(chain) = next.pop() {
            if let Some(found) = neighbours.remove(&chain) {
                region.insert(chain);
                next.extend(found);
            }
        }
        regions.push(region);
    }
    regions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regions(chains: u32, edges: &[(u32, u32)]) -> Vec<Vec<u32>> {
        let edges = edges.iter().map(|(from, to)| (ChainId(*from), ChainId(*to)));
        let regions = failover_regions((0..chains).map(ChainId), edges);
        regions.iter().map(|region| region.iter().map(|chain| chain.0).collect()).collect()
    }

    #[test]
    fn s12_13_what_no_edge_connects_is_a_region_of_its_own() {
        assert_eq!(regions(0, &[]), Vec::<Vec<u32>>::new());
        assert_eq!(regions(3, &[]), [[0], [1], [2]]);
        assert_eq!(regions(5, &[(0, 3), (1, 2), (2, 4)]), [vec![0, 3], vec![1, 2, 4]]);
    }

    #[test]
    fn s12_13_edges_connect_in_both_directions() {
        assert_eq!(regions(3, &[(0, 2), (1, 2)]), [[0, 1, 2]], "two streams that share only their sink");
        assert_eq!(regions(3, &[(0, 1), (0, 2)]), [[0, 1, 2]], "two sinks that share only their source");
        assert_eq!(regions(4, &[(3, 0), (3, 1), (2, 1)]), [[0, 1, 2, 3]]);
    }

    #[test]
    fn s12_13_regions_of_random_graphs_part_the_chains_and_cut_no_edge() {
        let mut random = crate::types::Random::from_seed(7);
        for _ in 0..500 {
            let chains = random.next_u64() % 12 + 1;
            let mut chain = || u32::try_from(random.next_u64() % chains).unwrap();
            let edges: Vec<(u32, u32)> = (0..chains / 2).map(|_| (chain(), chain())).collect();
            let chains = u32::try_from(chains).unwrap();
            let regions = regions(chains, &edges);
            let mut all: Vec<u32> = regions.iter().flatten().copied().collect();
            all.sort_unstable();
            assert_eq!(all, (0..chains).collect::<Vec<_>>());
            let of = |chain: &u32| regions.iter().position(|region| region.contains(chain));
            assert!(edges.iter().all(|(from, to)| of(from) == of(to)), "{edges:?}: {regions:?}");
            // As small as can be: no fewer regions than chains that edges could have joined.
            let mut joined = 0;
            let mut label: Vec<u32> = (0..chains).collect();
            for (from, to) in &edges {
                let (one, other) = (label[*from as usize], label[*to as usize]);
                joined += usize::from(one != other);
                label.iter_mut().filter(|label| **label == other).for_each(|label| *label = one);
            }
            assert_eq!(regions.len(), chains as usize - joined, "{edges:?}: {regions:?}");
        }
    }
}
