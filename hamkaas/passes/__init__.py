"""The passes of HamKaas, one a file: a pass `hamkaas-foo` is `HamkaasFooPass` in `hamkaas_foo.py`."""

from xdsl.passes import ModulePass

from hamkaas.passes.cudnn_assign_plans import CudnnAssignPlansPass
from hamkaas.passes.cudnn_dedup import CudnnDedupPass
from hamkaas.passes.cudnn_outline import CudnnOutlinePass
from hamkaas.passes.hamkaas_assign_shapes import HamkaasAssignShapesPass
from hamkaas.passes.hamkaas_convert_activations import HamkaasConvertActivationsPass
from hamkaas.passes.hamkaas_convert_weights import HamkaasConvertWeightsPass
from hamkaas.passes.hamkaas_dedup_groups import HamkaasDedupGroupsPass
from hamkaas.passes.hamkaas_merge_groups import HamkaasMergeGroupsPass
from hamkaas.passes.hamkaas_outline_groups import HamkaasOutlineGroupsPass
from hamkaas.passes.hamkaas_pack_weights import HamkaasPackWeightsPass
from hamkaas.passes.hamkaas_raise_attention import HamkaasRaiseAttentionPass
from hamkaas.passes.hamkaas_to_kernel import HamkaasToKernelPass
from hamkaas.passes.hamkaas_widen_scales import HamkaasWidenScalesPass
from hamkaas.passes.program_insert_barriers import ProgramInsertBarriersPass
from hamkaas.passes.program_overlap_launches import ProgramOverlapLaunchesPass
from hamkaas.passes.program_plan_memory import ProgramPlanMemoryPass
from hamkaas.passes.program_schedule import ProgramSchedulePass
from hamkaas.passes.program_to_persistent import ProgramToPersistentPass
from hamkaas.passes.verify_dominance import VerifyDominancePass

ALL_PASSES: tuple[type[ModulePass], ...] = (
    HamkaasConvertWeightsPass,
    HamkaasConvertActivationsPass,
    VerifyDominancePass,
    HamkaasWidenScalesPass,
    HamkaasRaiseAttentionPass,
    CudnnOutlinePass,
    HamkaasPackWeightsPass,
    CudnnDedupPass,
    CudnnAssignPlansPass,
    HamkaasOutlineGroupsPass,
    HamkaasMergeGroupsPass,
    HamkaasDedupGroupsPass,
    HamkaasAssignShapesPass,
    HamkaasToKernelPass,
    ProgramSchedulePass,
    ProgramPlanMemoryPass,
    ProgramInsertBarriersPass,
    ProgramOverlapLaunchesPass,
    ProgramToPersistentPass,
)
"""In the order in which a compile runs them."""
