//! Records that were in flight in the checkpoint an attempt starts from: which subtask gets them.
//!
//! At another parallelism a record goes where its exchange would send it: along a keyed edge to the subtask that has its key's state by
//! now, along any other as one channel, so that its order stays. What was on its way to every subtask goes to those whose broadcast
//! state comes from the same old one.

use crate::channel::{AnyBatch, Origin, RecordCodec};
use crate::checkpoint::metadata::{EdgeState, Manifest, StateSchema};
use crate::dataflow::{Exchange, Layout, PlannedEdge};
use crate::error::{Error, ErrorKind};
use crate::state::{redistribution, schema};
use crate::storage::OwnedJob;
use crate::types::{KeyGroupRange, MaxParallelism, Port, SubtaskId, SubtaskIndex};
use std::sync::Arc;

/// Records that a subtask gets before all others.
#[derive(Debug)]
pub(crate) struct RestoredInFlight {
    pub(crate) port: Port,
    pub(crate) origin: Origin,
    pub(crate) codec: RecordCodec,
    bytes: Arc<[u8]>,
    /// Of those with keys, only these groups.
    groups: KeyGroupRange,
    max_parallelism: MaxParallelism,
}

impl RestoredInFlight {
    /// The records, in order.
    pub(super) fn batches(&self) -> Result<Vec<AnyBatch>, Error> {
        self.codec.decode(&self.bytes, &|hash| self.groups.contains(self.max_parallelism.group_of(hash)))
    }
}

/// Checks that the program has the edges along which records were in flight.
pub(super) fn check(
    layout: &Layout,
    manifest: &Manifest,
    allow_non_restored_state: bool,
) -> Result<(), Error> {
    for state in &manifest.in_flight {
        let Some(edge) = layout.edges.iter().find(|edge| edge.name == state.edge) else {
            if allow_non_restored_state {
                continue;
            }
            let message = format!(
                "the checkpoint holds records in flight along {}, where the program has no exchange any more: start from it with the \
                 program that took it and take one whose barriers align, or drop these records with \
                 allow_non_restored_state()",
                state.edge
            );
            return Err(Error::new(ErrorKind::Program, message).checkpoint(manifest.checkpoint));
        };
        let (stored, declared) = (&state.schema, schema_of(edge));
        if stored.kind != declared.kind || !schema::matches(&stored.value, &declared.value) {
            let message = format!(
                "the checkpoint holds records in flight along {}, as {} of `{}`, but the program has {} of `{}` there: start from it with \
                 the program that took it and take one whose barriers align",
                state.edge, stored.kind, stored.value, declared.kind, declared.value
            );
            return Err(Error::new(ErrorKind::Program, message).checkpoint(manifest.checkpoint));
        }
    }
    Ok(())
}

/// What is stored of the records of an edge.
pub(super) fn schema_of(edge: &PlannedEdge) -> StateSchema {
    let kind = match edge.exchange {
        Exchange::Forward | Exchange::Rebalance => "records",
        Exchange::ByKey => "records by key",
        Exchange::Broadcast => "records to all",
    };
    StateSchema { kind: kind.into(), ..edge.codec.schema() }
}

/// Reads what was in flight, for the subtasks that get it, in the order in which they get it.
pub(super) async fn read(
    layout: &Layout,
    manifest: &Manifest,
    storage: &OwnedJob,
    max_parallelism: MaxParallelism,
) -> Result<Vec<(SubtaskId, RestoredInFlight)>, Error> {
    let mut restored = Vec::new();
    for state in &manifest.in_flight {
        let Some(edge) = layout.edges.iter().find(|edge| edge.name == state.edge) else { continue };
        let Some((chain, port)) = layout.consumer_of(edge.id) else { continue };
        let segments: Vec<_> = state.channels.iter().map(|channel| &channel.at).collect();
        let read = storage.read_segments(manifest, &segments).await;
        let read = read.map_err(|error| error.checkpoint(manifest.checkpoint))?;
        for (number, (channel, bytes)) in state.channels.iter().zip(read).enumerate() {
            let bytes: Arc<[u8]> = bytes.into();
            for index in heirs(edge.exchange, state, number, chain.parallelism) {
                let records = RestoredInFlight {
                    port,
                    origin: Origin { edge: edge.id, from: channel.from },
                    codec: edge.codec,
                    bytes: Arc::clone(&bytes),
                    groups: max_parallelism.range_of(index, chain.parallelism),
                    max_parallelism,
                };
                restored.push((SubtaskId { chain: chain.id, index }, records));
            }
        }
    }
    Ok(restored)
}

/// Who gets the records of channel `number` of an edge; of those with keys, everyone gets what is in its key groups.
fn heirs(exchange: Exchange, state: &EdgeState, number: usize, parallelism: u32) -> Vec<SubtaskIndex> {
    let Some(channel) = state.channels.get(number) else { return Vec::new() };
    let index = |number: usize| SubtaskIndex(u32::try_from(number).unwrap_or(u32::MAX));
    match exchange {
        _ if parallelism == state.parallelism => vec![channel.to],
        Exchange::ByKey => (0..parallelism).map(SubtaskIndex).collect(),
        Exchange::Forward | Exchange::Rebalance => vec![index(number % parallelism.max(1) as usize)],
        Exchange::Broadcast => {
            let old: Vec<usize> = (0..state.parallelism as usize).collect();
            let donors = redistribution::broadcast(&old, old.len(), parallelism);
            let heirs = donors.iter().enumerate().filter(|(_, donor)| **donor == channel.to.0 as usize);
            heirs.map(|(number, _)| index(number)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::{Batch, Hashed};
    use crate::checkpoint::metadata::{ChannelState, Segment};
    use crate::types::EdgeId;
    use std::collections::BTreeMap;

    /// An edge of two producers to `parallelism` consumers, with records in every channel.
    fn edge(parallelism: u32) -> EdgeState {
        let at = Segment { file: String::new(), offset: 0, len: 0, crc32c: 0 };
        let channels = (0..2).flat_map(|from| (0..parallelism).map(move |to| (from, to)));
        EdgeState {
            edge: "e".into(),
            schema: StateSchema { kind: String::new(), key: String::new(), value: String::new() },
            parallelism,
            channels: channels
                .map(|(from, to)| ChannelState {
                    from: SubtaskIndex(from),
                    to: SubtaskIndex(to),
                    records: 3,
                    at: at.clone(),
                })
                .collect(),
        }
    }

    /// Which old channels each new subtask gets, in order.
    fn dealt(exchange: Exchange, old: u32, new: u32) -> BTreeMap<u32, Vec<usize>> {
        let state = edge(old);
        let mut dealt: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for number in 0..state.channels.len() {
            for to in heirs(exchange, &state, number, new) {
                dealt.entry(to.0).or_default().push(number);
            }
        }
        dealt
    }

    #[test]
    fn a_channel_without_keys_stays_whole_and_goes_to_one_subtask() {
        for exchange in [Exchange::Forward, Exchange::Rebalance] {
            for (old, new) in [(1, 1), (2, 2), (1, 3), (3, 1), (2, 3), (3, 2)] {
                let dealt = dealt(exchange, old, new);
                let mut all: Vec<usize> = dealt.values().flatten().copied().collect();
                all.sort_unstable();
                assert_eq!(all, (0..2 * old as usize).collect::<Vec<_>>(), "{old} -> {new}");
                let fair = (2 * old).min(new) as usize;
                assert!(dealt.len() >= fair && dealt.keys().all(|to| *to < new), "{old} -> {new}: {dealt:?}");
            }
        }
        assert_eq!(dealt(Exchange::Rebalance, 2, 2)[&1], [1, 3], "unchanged: its own");
    }

    #[test]
    fn a_keyed_record_goes_to_the_owner_of_its_key_and_to_nobody_else() {
        let groups = MaxParallelism::new(16).unwrap();
        let hashes: Vec<u64> = (0..100).map(|i: u64| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
        let codec = RecordCodec::keyed::<u64>();
        let mut bytes = Vec::new();
        let items: Vec<_> = hashes.iter().map(|hash| Hashed { hash: *hash, record: *hash }).collect();
        let batch: AnyBatch = Box::new(Batch { items });
        codec.encode(&batch, &mut bytes).unwrap();
        for parallelism in 1..6 {
            let mut found = Vec::new();
            for index in heirs(Exchange::ByKey, &edge(7), 0, parallelism) {
                let restored = RestoredInFlight {
                    port: Port(0),
                    origin: Origin { edge: EdgeId(0), from: SubtaskIndex(0) },
                    codec,
                    bytes: bytes.as_slice().into(),
                    groups: groups.range_of(index, parallelism),
                    max_parallelism: groups,
                };
                for batch in restored.batches().unwrap() {
                    for Hashed { hash, record } in batch.downcast::<Batch<Hashed<u64>>>().unwrap().items {
                        assert_eq!(record, hash);
                        assert_eq!(groups.owner_of(groups.group_of(hash), parallelism), index);
                        found.push(record);
                    }
                }
            }
            found.sort_unstable();
            let mut all = hashes.clone();
            all.sort_unstable();
            assert_eq!(found, all, "at {parallelism}");
        }
    }

    #[test]
    fn of_what_goes_to_all_each_subtask_gets_what_one_old_one_had() {
        for (old, new) in [(2, 2), (1, 3), (3, 1), (2, 3)] {
            let dealt = dealt(Exchange::Broadcast, old, new);
            assert_eq!(dealt.len(), new as usize, "{old} -> {new}");
            for share in dealt.values() {
                let of = share[0] % old as usize;
                assert_eq!(*share, [of, of + old as usize]);
            }
        }
    }
}
