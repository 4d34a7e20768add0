"""What experiments share: flags, the cells of a table, teachers, tables and pictures."""

from experiments.common.app import run_app
from experiments.common.arms import Arm, build_arm, make_bench, network, run_arm
from experiments.common.cells import Bench, Cell, Setting, Teacher
from experiments.common.curves import plot_accuracies, plot_curves
from experiments.common.flags import check_flags, define_flags, define_run_flags, setting_from_flags, width_from_flags
from experiments.common.scale import Scale
from experiments.common.table import Row, folder_of, print_table, summarize, teacher_row, write_results
from experiments.common.teacher import obtain_teacher

__all__ = [
    "Arm",
    "Bench",
    "Cell",
    "Row",
    "Scale",
    "Setting",
    "Teacher",
    "build_arm",
    "check_flags",
    "define_flags",
    "define_run_flags",
    "folder_of",
    "make_bench",
    "network",
    "obtain_teacher",
    "plot_accuracies",
    "plot_curves",
    "print_table",
    "run_app",
    "run_arm",
    "setting_from_flags",
    "summarize",
    "teacher_row",
    "width_from_flags",
    "write_results",
]
