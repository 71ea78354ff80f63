"""What can be asked of a merge: every choice with its default and its option, stated once.

The command line takes its options from here (`isthmus.merge.options.Option`), the pipeline its settings, the report its
record, and the command that makes a merge again its words. Nothing here imports torch.
"""

from .beside_merges import AlignPlan, EnsemblePlan, ExplainPlan, ExtractPlan, PlanePlan
from .gates import Gates
from .merging import Align, Dtype, MergePlan, Objective
from .operators import LEAST_EVALUATIONS, SEARCHES, Granularity, OperatorPlan, SearchPlan
from .refusals import refuse
from .spectrum import SpectrumPlan
from .training import CURVES, MAX_PASSES, CurvePlan, LearnPlan, OptimizerName, PathTraining
from .words import read_parameters

__all__ = [
    "CURVES",
    "LEAST_EVALUATIONS",
    "MAX_PASSES",
    "SEARCHES",
    "Align",
    "AlignPlan",
    "CurvePlan",
    "Dtype",
    "EnsemblePlan",
    "ExplainPlan",
    "ExtractPlan",
    "Gates",
    "Granularity",
    "LearnPlan",
    "MergePlan",
    "Objective",
    "OperatorPlan",
    "OptimizerName",
    "PathTraining",
    "PlanePlan",
    "SearchPlan",
    "SpectrumPlan",
    "read_parameters",
    "refuse",
]
