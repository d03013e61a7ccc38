"""Plans: what is counted, what is read from compiled programs, and what the command says."""

import dataclasses
import json
import re
import subprocess
import types

import jax
import pytest

from seqzoo import tasks
from seqzoo.models.backbone import BackboneConfig
from seqzoo.train.cli.command import dispatch
from seqzoo.train.config import Experiment, MeshConfig, TrainConfig
from seqzoo.train.devices.chips import GPUS, TPUS, chip_of
from seqzoo.train.plan import apart, compiled, search, topology
from seqzoo.train.plan import plan as module
from seqzoo.train.plan import table as plan_table
from seqzoo.train.plan.hlo import Module, by_kind
from seqzoo.train.plan.kernels import kernels
from seqzoo.train.plan.plan import describe, plan_of
from seqzoo.train.plan.topology import Plan

HLO = """HloModule jit_step, is_scheduled=true

%fused (p0: f32[24,128], p1: s32[]) -> f32[1,128] {
  %p0 = f32[24,128]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  ROOT %ds = f32[1,128]{1,0} dynamic-slice(%p0, %p1), dynamic_slice_sizes={1,128}
}

%inner (q0: f32[24,128], q1: s32[]) -> f32[1,128] {
  %q0 = f32[24,128]{1,0} parameter(0)
  %q1 = s32[] parameter(1)
  %same = f32[24,128]{1,0} bitcast(%q0)
  ROOT %part = f32[1,128]{1,0} dynamic-slice(%same, %q1), dynamic_slice_sizes={1,128}
}

%update (r0: f32[24,128], r1: s32[]) -> f32[24,128] {
  %r0 = f32[24,128]{1,0} parameter(0)
  %r1 = s32[] parameter(1)
  %deep = f32[1,128]{1,0} fusion(%r0, %r1), kind=kLoop, calls=%inner
  ROOT %put = f32[24,128]{1,0} dynamic-update-slice(%r0, %deep, %r1)
}

%condition (c: (s32[], f32[24,128])) -> pred[] {
  %c = (s32[], f32[24,128]{1,0}) parameter(0)
  %limit = s32[]{:T(128)} constant(24)
  %i = s32[] get-tuple-element(%c), index=0
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}

%body (b: (s32[], f32[24,128])) -> (s32[], f32[24,128]) {
  %b = (s32[], f32[24,128]{1,0}) parameter(0)
  %n = s32[] get-tuple-element(%b), index=0
  %w = f32[24,128]{1,0} get-tuple-element(%b), index=1
  %slice = f32[1,128]{1,0} fusion(%w, %n), kind=kLoop, calls=%fused
  %near = f32[8,128]{1,0:T(8,128)S(1)} all-gather(%slice), channel_id=3, replica_groups=[2,8]<=[16]
  %next = f32[24,128]{1,0} fusion(%w, %n), kind=kLoop, calls=%update
  ROOT %t = (s32[], f32[24,128]{1,0}) tuple(%n, %next)
}

ENTRY %main (a: f32[24,128]) -> f32[24,128] {
  %a = f32[24,128]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %start = (s32[], f32[24,128]{1,0}) tuple(%zero, %a)
  %loop = (s32[], f32[24,128]{1,0}) while(%start), condition=%condition, body=%body
  %out = f32[24,128]{1,0} get-tuple-element(%loop), index=1
  ROOT %sum = f32[24,128]{1,0} all-reduce(%out), channel_id=1, replica_groups={{0,1,2,3},{4,5,6,7}}
}
"""


def test_loops_count_as_often_as_they_run():
    kinds = {kind: (n, sent) for kind, n, sent in by_kind(Module(HLO).collectives())}
    assert kinds["all-gather"] == (24, 24 * 8 * 128 * 4 * 7 / 8)
    assert kinds["all-reduce"] == (1, 2 * 24 * 128 * 4 * 3 / 4)


def test_traffic_counts_slices_and_leaves_out_fast_memory():
    fusion = 2 * 128 * 4 + 4  # the slice read and written, and the index
    gather = 128 * 4  # its result stays near the processor
    update = 2 * 128 * 4 + 4  # a row read by a fusion in the fusion, and written in place
    assert Module(HLO).traffic() == 24 * (fusion + gather + update) + 2 * 24 * 128 * 4


def test_a_copy_in_place_within_a_fusion_is_no_traffic():
    same = "%same = f32[24,128]{1,0} bitcast(%q0)"
    aliased = "fusion(%q0), kind=kLoop, output_to_operand_aliasing={{}: (0, {})}, calls=%copied"
    copied = "%copied (z: f32[24,128]) -> f32[24,128] {\n"
    copied += "  %z = f32[24,128]{1,0} parameter(0)\n"
    copied += "  ROOT %copy = f32[24,128]{1,0} copy(%z)\n}\n\n"
    text = HLO.replace(same, f"%same = f32[24,128]{{1,0}} {aliased}")
    assert text != HLO
    text = text.replace("%inner (q0", copied + "%inner (q0")
    assert Module(text).traffic() == Module(HLO).traffic()


def test_a_loop_that_carries_on_a_collective_does_not_move_it_whole_in_every_turn():
    """XLA spreads the steps of an asynchronous collective over the loop beside it."""
    one, part, whole = (f"f32[{n},128]{{1,0}}" for n in (1, 999, 3996))
    made = f"({one}, {part}, {whole}, {whole})"
    taken = f"%ds = {one} dynamic-slice(%p0, %p1), dynamic_slice_sizes={{1,128}}\n"
    text = HLO.replace(
        f"  ROOT {taken}",
        f"  {taken}  %p2 = {part} parameter(2)\n  %p3 = {whole} parameter(3)\n"
        f"  %p2.2 = {whole} all-gather(%p2), channel_id=8, replica_groups={{{{0,1,2,3}}}}\n"
        f"  ROOT %all = {made} tuple(%ds, %p2, %p2.2, %p3)\n",
    ).replace(
        f"  %slice = {one} fusion(%w, %n)",
        f"  %old = {part} get-tuple-element(%b), index=2\n"
        f"  %new = {whole} get-tuple-element(%b), index=3\n"
        f"  %slice = {made} fusion(%w, %n, %old, %new)",
    )
    assert "%old" in text
    assert "%p2.2" in text
    row = "  %row = f32[1,128]{1,0} get-tuple-element(%slice), index=0\n  %near"
    text = text.replace("  %near", row, 1).replace("all-gather(%slice)", "all-gather(%row)")
    assert Module(text).traffic() == Module(HLO).traffic()


def test_cycles_are_there_where_all_operations_have_some():
    def text(cycles):
        config = f', backend_config={{"estimated_cycles":"{cycles}"}}'
        return HLO.replace("calls=%fused\n", f"calls=%fused{config}\n")

    assert Module(text(50)).cycles() == 24 * 50
    assert Module(text(2**63 - 1)).cycles() == Module(HLO).cycles() == 0


def test_a_program_with_a_kernel_of_pallas_has_no_cycles():
    line = '  %{} = f32[8]{{0}} custom-call(), custom_call_target="{}"{}'
    estimated = ', backend_config={"estimated_cycles":"50"}'

    def cycles(target):
        lines = line.format("a", "Sharding", estimated), line.format("b", target, "")
        return Module("\n".join(["ENTRY %main () -> f32[8] {", *lines, "}"])).cycles()

    assert cycles("Sharding") == 50
    assert cycles("tpu_custom_call") == 0


def test_a_gather_whose_steps_run_in_another_loop_counts_once():
    step = "  %near.2 = f32[8,128]{1,0} all-gather(%a), channel_id=3, replica_groups=[2,8]<=[16]\n"
    text = HLO.replace("  ROOT %sum", step + "  ROOT %sum")
    kinds = {kind: n for kind, n, _ in by_kind(Module(text).collectives())}
    assert kinds["all-gather"] == 1


def test_a_collective_of_several_arrays_sends_all_of_them():
    """XLA joins small ones; where one only starts, its operands stand before its results."""
    two, both = "(f32[8,128]{1,0:T(8,128)}, bf16[16]{0})", 8 * 128 * 4 + 16 * 2
    groups = "replica_groups=[2,8]<=[16]"
    started = "((f32[1,128]{1,0}, bf16[2]{0}), " + two + ")"
    for text, sent in (
        (f"{two} all-reduce(%a, %a), channel_id=9, {groups}", 2 * both * 7 / 8),
        (f"{two} all-reduce-start(%a, %a), channel_id=9, {groups}", 2 * both * 7 / 8),
        (f"{two} all-gather(%a, %a), channel_id=9, {groups}", both * 7 / 8),
        (f"{started} all-gather-start(%a, %a), channel_id=9, {groups}", both * 7 / 8),
        (
            "(f32[8]{0}, f32[64]{0}) all-gather-start(%a), channel_id=9, " + groups,
            64 * 4 * 7 / 8,
        ),
        ("(f32[8]{0}, f32[8]{0}, u32[], u32[]) collective-permute-start(%a), channel_id=9", 32),
    ):
        lines = HLO.replace("  ROOT %sum", f"  %joined = {text}\n  ROOT %sum")
        own = [c.sent for c in Module(lines).collectives()]
        assert sent in own, text


GPU_BODY = """
  %w.2 = f32[24,128]{1,0} copy(%w)
  %made = f32[8,128]{1,0} fusion(%w.2), kind=kCustom, calls=%fused, backend_config={"operation_queue_id":"0","fusion_backend_config":{"kind":"__triton_nested_gemm_fusion","x":{}}}
  %called = (f32[8,128]{1,0}, s8[64]{0}) custom-call(%w.2), custom_call_target="__cublas$gemm"
  %asked = f32[8,128]{1,0} custom-call(%w.2), custom_call_target="__cudnn$fmhaSoftmax"
  %begun = f32[8,128]{1,0} all-reduce-start(%made), channel_id=5, replica_groups={{0,1}}
  %ended = f32[8,128]{1,0} all-reduce-done(%begun)
  %less = f32[8]{0} fusion(%made), kind=kInput, calls=%inner
"""  # noqa: E501


def test_a_gpu_starts_a_kernel_for_each_fusion_call_copy_and_collective():
    assert kernels(Module(HLO)) == {"loop": 48, "collective": 25}
    text = HLO.replace("  %near", GPU_BODY.strip("\n") + "\n  %near", 1)
    assert kernels(Module(text)) == {
        **{"triton": 24, "cudnn": 24, "library": 24, "loop": 48, "reduction": 24, "copy": 24},
        "collective": 25 + 24,
    }


def test_launches_are_a_bound_where_a_step_is_many_kernels():
    class Compiled:
        def as_text(self):
            return HLO

        def cost_analysis(self):
            return None  # as XLA for CUDA has it

    row = {"product_flops": 1.0, "model_flops": 1.0, "devices": 1}
    found = compiled.times_of(Compiled(), GPUS["h100"], row)
    assert found["launches"] == 73
    assert found["bounds"]["launches"] == found["bound_seconds"] == 73 * GPUS["h100"].launch
    assert "launches" not in compiled.times_of(Compiled(), TPUS["v5e"], row)


@pytest.mark.of_the_day("no masks")
def test_layers_of_attention_keep_no_masks_of_all_pairs():
    """What a scan over layers does not change, JAX takes out of it and keeps."""

    def memory(length):
        padded = Experiment(
            task=tasks.build("listops"),
            model="attention",
            backbone=BackboneConfig(d_model=16, depth=2, remat="full"),
            train=TrainConfig(batch_size=2),
        )
        return plan_of(padded, Plan(length=length), jax.devices()[:1])["temporary_bytes"]

    assert memory(4096) < 2.2 * memory(2048)


def experiment(**mesh):
    return Experiment(
        task=tasks.build("mqar", length=32, num_pairs=4, vocab_size=64),
        model="linear_attention",
        backbone=BackboneConfig(d_model=16, depth=2, feedforward="none"),
        train=TrainConfig(batch_size=8),
        mesh=MeshConfig(**mesh),
    )


@pytest.mark.of_the_day("plans of several and packed runs")
def test_runs_in_one_program_are_planned_together_and_packed_rows_as_the_larger_program():
    short = dataclasses.replace(experiment(), task=tasks.build("listops_short"))

    def planned(**train):
        own = dataclasses.replace(short, train=TrainConfig(batch_size=8, **train))
        return plan_of(own, Plan(), jax.devices()[:1])

    one, two, packed = planned(), planned(replicas=2), planned(pack=-1)
    for name in ("parameters", "model_flops"):
        assert two[name] == 2 * one[name], name
    assert two["argument_bytes"] > 1.9 * one["argument_bytes"]
    assert "2 runs in one program" in next(describe(two))
    for name in ("model_flops", "flops_per_token", "temporary_bytes"):
        assert packed[name] == one[name], name


@pytest.fixture(scope="module")
def rows():
    divided = experiment(data=1, fsdp=2)
    return [plan_of(divided, Plan(length=n), jax.devices()[:2]) for n in (32, 128)]


@pytest.mark.of_the_day("fsdp sends")
def test_what_fsdp_sends_does_not_grow_with_the_length(rows):
    short, long = ({k: sent for k, (_, sent) in row["collectives"].items()} for row in rows)
    # Tokens are gathered where the embedding is divided, and that is all.
    activations = 8 // 2 * (128 - 32) * 16 * 4
    assert sum(long.values()) - sum(short.values()) < 2 * activations
    assert short["all-gather"] > 0


@pytest.mark.of_the_day("a plan tells", 2)
def test_a_plan_tells_what_it_found(rows):
    row = rows[1]
    assert (row["devices"], row["mesh"], row["fits"]) == (2, {"fsdp": 2}, None)
    assert row["flops_per_token"] * 8 * 128 == row["model_flops"] > row["product_flops"] > 0
    assert row["peak_bytes"] >= row["temporary_bytes"] > 0
    text = "\n".join(describe(row))
    assert "limit of memory not known" in text
    assert "8 rows of 128 tokens" in text


def test_the_bound_is_the_slowest_of_products_memory_and_links():
    class Compiled:
        def as_text(self):
            return HLO

        def cost_analysis(self):
            return {"flops": 1.0, "optimal_seconds": -2.0}

    chip, row = TPUS["v5e"], {"product_flops": 197e12, "model_flops": 394e12, "devices": 1}
    found = compiled.times_of(Compiled(), chip, row)
    assert found["bounds"]["products"] == found["bound_seconds"] == 1.0
    assert found["utilisation"] == 1.0  # of products; elementwise work has no peak of its own
    assert found["compiler_seconds"] is None


def test_a_program_that_does_not_fit_is_explained():
    message = (
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space "
        "hbm. Used 25.50G of 15.75G hbm. Exceeded hbm capacity by 9.75G.\n\n"
        "Largest program allocations in hbm:\n\n  1. Size: 12.00G\n"
        '     Operator: op_name="jit(f)/a"\n'
        "     Shape: f32[1]\n\n  2. Size: 512.00M\n     Shape: bf16[2]\n"
    )
    found = compiled.refused(message)
    assert (found["fits"], found["peak_bytes"]) == (False, 25.5 * 2**30)
    short = "RESOURCE_EXHAUSTED: the total memory required for HLO temporaries (16.76G) exceeds"
    assert compiled.refused(short)["peak_bytes"] == 16.76 * 2**30
    assert found["largest"] == [(12 * 2**30, "jit(f)/a"), (512 * 2**20, "bf16[2]")]


def test_what_a_tpu_holds_is_the_compilers_peak_and_elsewhere_the_sum():
    class Compiled:
        def memory_analysis(self):
            parts = ("argument_size", "output_size", "alias_size", "temp_size")
            sizes = zip((*parts, "generated_code_size"), (2, 4, 1, 30, 1), strict=True)
            sizes = {f"{part}_in_bytes": 2**30 * n for part, n in sizes}
            return types.SimpleNamespace(**sizes, peak_memory_in_bytes=15 * 2**30)

    row = compiled.memory_of(Compiled(), TPUS["v5e"])
    held = [row[f"{part}_bytes"] / 2**30 for part in ("argument", "output", "temporary", "peak")]
    assert (held, row["fits"]) == ([2, 3, 10, 15], True)
    row = compiled.memory_of(Compiled(), GPUS["h100"])
    assert (row["temporary_bytes"], row["peak_bytes"]) == (30 * 2**30, 36 * 2**30)


def test_chips_are_recognised_by_their_kind():
    @dataclasses.dataclass
    class Device:
        device_kind: str

    assert chip_of(Device("TPU v5 lite")) == TPUS["v5e"]
    assert chip_of(Device("TPU v5")) == TPUS["v5p"]
    assert chip_of(Device("TPU7x")).memory == TPUS["tpu7x"].memory / 2
    assert chip_of(Device("cpu")) is None


@pytest.mark.parametrize(
    ("count", "rows", "length", "slices", "expected"),
    [
        (4, 8, 32, 1, ["data 4", "fsdp 1, seq 4", "fsdp 1, tensor 4", "fsdp 2, seq 2", "fsdp 4"]),
        (4, 1, 32, 1, ["fsdp 1, seq 4", "fsdp 1, tensor 4"]),
        (4, 2, 30, 1, ["fsdp 1, tensor 4", "fsdp 2, seq 2"]),
        (32, 2, 64, 1, ["fsdp 2, seq 16"]),
        (4, 4, 32, 2, ["data 4", "fsdp 2, seq 2", "fsdp 4"]),
    ],
)
def test_a_search_tries_what_divides_rows_and_their_length(count, rows, length, slices, expected):
    one = dataclasses.replace(experiment(), train=TrainConfig(batch_size=rows))
    found = list(search.candidates(one, Plan(length=length, slices=slices), count))
    named = {
        ", ".join(f"{k} {v}" for k, v in dataclasses.asdict(e.mesh).items() if v > 1 or k == "fsdp")
        for e in found
    }
    assert sorted(name.replace("data 4, fsdp 1", "data 4") for name in named) == expected
    assert {e.backbone.remat for e in found} == {"none", "dots", "full"}


def test_a_search_lists_the_fastest_that_fits_first(capsys, monkeypatch):
    found = [(None, 3.0), (True, 2.0), (True, 1.0), (False, 0.5)]

    def plan_of(candidate, plan, devices):
        fits, bound = found.pop()
        mesh = {name: n for name, n in dataclasses.asdict(candidate.mesh).items() if n > 1}
        return {"fits": fits, "bound_seconds": bound, "mesh": mesh, "remat": "none"}

    monkeypatch.setattr(module, "plan_of", plan_of)
    monkeypatch.setattr(module, "describe", lambda row: [])
    few = list(search.candidates(experiment(), Plan(), 8))[:4]
    monkeypatch.setattr(search, "candidates", lambda *_: few)
    assert dispatch(["plan", "--task", "mqar", "--model", "min_gru", "--search"]) == 0
    best = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["bound_seconds"] for row in (best, *best["search"])] == [1.0, 2.0, 3.0, 0.5]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--topology", "v5e:17"], "with its shape, such as v5e:16x16"),
        (["--topology", "v9:2x2"], "one of v5e, v5p, v6e, tpu7x"),
        (["--topology", "h100"], "such as h100:8"),
        (["--topology", "h100:0"], "a100, h100, h200, b200 with the GPUs of a host"),
        (["--topology", "h100:2x2x8"], "hosts by GPUs, such as h100:2x8"),
        (["--topology", "h100:8", "--slices", "2"], "2 hosts of GPUs are h100:2x8"),
        (["--topology", "b200:2x8"], "pip install 'seqzoo[plan-gpu]'"),
        (["--slices", "0"], "slices is at least 1"),
        (["--topology", "v5e:2x2"], "pip install 'seqzoo[tpu]'"),
    ],
)
def test_a_request_that_cannot_be_is_one_line(capsys, monkeypatch, more, says):
    monkeypatch.setattr(topology, "has_libtpu", lambda: False)
    monkeypatch.setattr(topology, "has_cuda_compiler", lambda: False)
    assert dispatch(["plan", "--task", "mqar", "--model", "lru", *more]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


def test_a_table_continues_and_keeps_failures(tmp_path, monkeypatch, capsys):
    made = []

    def make_row(name, experiment, plan, limit):
        made.append(name)
        assert (experiment.model, experiment.backbone.depth, plan.length) == (name, 24, 32768)
        return {"model": name, "error": f"not compiled within {limit:.0f} s", "seconds": limit}

    monkeypatch.setattr(plan_table, "make_row", make_row)
    call = ["plan", "--all", "--out", str(tmp_path / "t"), "--limit-seconds", "7", "--models"]
    assert dispatch([*call, "lru"]) == 0
    assert dispatch([*call, "lru,gru", "--page", str(tmp_path / "page.md")]) == 0
    assert made == ["lru", "gru"]
    page = (tmp_path / "page.md").read_text()
    assert "| `gru` | not compiled within 7 s |" in page
    assert re.search("^    seqzoo plan --all .* --out DIR --page .*page.md$", page, re.M)
    capsys.readouterr()
    mine = tmp_path / "mine.md"
    mine.write_text("# My notes\n")
    for table in (["--all", "--models", "lru"], ["--forms", "--ops", "linear_scan"]):
        words = [*table, "--out", str(tmp_path / "new"), "--page", str(mine)]
        assert dispatch(["plan", *words]) == 2
        assert "'# My notes'); name another file" in capsys.readouterr().err
        assert mine.read_text() == "# My notes\n"
        assert not (tmp_path / "new").exists()
    assert dispatch([*call, "lru", "--length", "5"]) == 2
    assert "another request" in capsys.readouterr().err


def test_a_table_of_gpus_shows_launches():
    row = {"model": "gru", "fits": True, "flops_per_token": 1e6, "seconds": 9.0, "bounds": {}}
    row |= {"launches": 12345.0, "without_triton": {"launches": 99.0}, "bound_seconds": 6e-3}
    error = {"model": "lru", "error": "not compiled within 7 s", "seconds": 7.0}
    table = plan_table.page([row, error], {"--topology": "h100:8"})
    assert "| launches | without Triton | compiled in |" in table
    assert "| 12,345 | 99 | 9 s |" in table
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1


def test_a_row_whose_process_is_killed_says_so(monkeypatch):
    killed = subprocess.CompletedProcess([], -9, stdout="", stderr="WARNING: something else\n")
    monkeypatch.setattr(apart.subprocess, "run", lambda *args, **options: killed)
    row = apart.planned_apart("seqzoo.train.plan.plan", {}, 7)
    assert row["error"].startswith("its process was ended by SIGKILL,")


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:2x2", "v6e:2x2", "v5p:2x2x1", "tpu7x:2x2x1"])
def test_a_tpu_is_planned_without_one(topology, tmp_path):
    pytest.importorskip("libtpu", reason="libtpu compiles for TPUs; the extra `tpu` installs it")
    small = Experiment(task=tasks.build("mqar"), model="gru", train=TrainConfig(batch_size=8))
    row = plan_table.make_row("gru", small, Plan(topology=topology), 300)
    assert row.get("fits") is True, row
    assert row["bound_seconds"] > 0
    assert row["devices"] == 4 * chip_of_topology(topology).devices
    assert json.dumps(row)


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["h100:8", "h200:2x4", "a100:8", "b200:8"])
def test_a_gpu_is_planned_without_one(topology):
    reason = "XLA for CUDA compiles for GPUs; the extra `plan-gpu` installs it"
    pytest.importorskip("jax_cuda13_plugin", reason=reason)
    small = Experiment(task=tasks.build("mqar"), model="gru", train=TrainConfig(batch_size=8))
    row = plan_table.make_row("gru", small, Plan(topology=topology), 600)
    assert row.get("fits") is True, row
    assert row["devices"] == 8
    # A loop over the tokens, forward and backward, starts a few kernels for each.
    assert row["launches"] > 2 * small.task.spec.length
    assert row["without_triton"]["launches"] > 2 * small.task.spec.length
    assert json.dumps(row)


def chip_of_topology(topology):
    return TPUS[topology.partition(":")[0]]
