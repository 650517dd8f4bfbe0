"""Bytes of collectives, read from the text of a compiled program."""

import collectives

HLO = """HloModule jit_step, is_scheduled=true

%sum (x: f32[], y: f32[]) -> f32[] {
  ROOT %add = f32[] add(%x, %y)
}

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %in = f32[8]{0} all-reduce(%q), replica_groups={{0,1,2,3}}, to_apply=%sum
}

%less (p: (s32[], f32[8])) -> pred[] {
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (a: f32[4,8], b: bf16[16]) -> f32[8] {
LINES
}
"""
FLAT = """\
  %ar = (f32[4,8]{1,0}, /*index=1*/bf16[16]{0}) all-reduce(%a, %b), replica_groups=[1,8]<=[8]
  %ag = f32[64]{0} all-gather(%c), replica_groups={{0,1,2,3}}, dimensions={0}
  %s = (f32[8]{0}, f32[64]{0}) all-gather-start(%c), replica_groups={{0,1,2,3}}
  %d = f32[64]{0} all-gather-done(%s)
  %rs = f32[8]{0} reduce-scatter(%e), replica_groups={{0,1,2,3}}, dimensions={0}
  %rt = f32[8]{0} reduce-scatter(%e), replica_groups=[2,4]<=[8], dimensions={0}
  %p = s8[10]{0} collective-permute(%f), source_target_pairs={{0,1}}
  %w = f32[99]{0} fusion(%ar), kind=kLoop, calls=%sum"""
LOOP = "  %w = (s32[], f32[8]{0}) while(%t), condition=%less, body=%body"
TRIPS = ', backend_config={"known_trip_count":{"n":"5"}}'


def _sent(lines):
    return collectives.bytes_by_kind(HLO.replace("LINES", lines))


def test_collectives_count_whole_tensors_once():
    assert _sent(FLAT) == {
        "all-reduce": 4 * 8 * 4 + 16 * 2,
        "all-gather": 64 * 4 + 64 * 4,
        "reduce-scatter": 2 * 4 * 8 * 4,
        "collective-permute": 10,
    }


def test_collectives_of_a_loop_count_as_often_as_it_runs():
    assert _sent(LOOP + TRIPS) == {"all-reduce": 5 * 8 * 4}
    assert _sent(LOOP) == {"all-reduce": 8 * 4}
    assert _sent("  %f = f32[8]{0} conditional(%i), branch_computations={%body, %less}") == {
        "all-reduce": 8 * 4
    }
