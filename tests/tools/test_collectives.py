"""Bytes of collectives, read from the text of a compiled program."""

import collectives

HLO = """
  %ar = (f32[4,8]{1,0}, /*index=1*/bf16[16]{0}) all-reduce(%a, %b), replica_groups=[1,8]<=[8]
  %ag = f32[64]{0} all-gather(%c), replica_groups={{0,1,2,3}}, dimensions={0}
  %s = (f32[8]{0}, f32[64]{0}) all-gather-start(%c), replica_groups={{0,1,2,3}}
  %d = f32[64]{0} all-gather-done(%s)
  %rs = f32[8]{0} reduce-scatter(%e), replica_groups={{0,1,2,3}}, dimensions={0}
  %rt = f32[8]{0} reduce-scatter(%e), replica_groups=[2,4]<=[8], dimensions={0}
  %p = s8[10]{0} collective-permute(%f), source_target_pairs={{0,1}}
  %w = f32[99]{0} fusion(%ar), kind=kLoop, calls=%all-reduce.clone
"""


def test_collectives_count_whole_tensors_once():
    assert collectives.bytes_by_kind(HLO) == {
        "all-reduce": 4 * 8 * 4 + 16 * 2,
        "all-gather": 64 * 4 + 64 * 4,
        "reduce-scatter": 2 * 4 * 8 * 4,
        "collective-permute": 10,
    }
