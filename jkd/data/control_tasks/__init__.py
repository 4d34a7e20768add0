"""Small control tasks as pure functions: mazes, a chain, a warehouse; thousands of copies under `vmap`."""

from jkd.data.control_tasks.agv import AGVParams, AGVState, agv_environment, agv_scene
from jkd.data.control_tasks.environments import Environment, Trajectory, Worlds, auto_reset_step, begin, rollout
from jkd.data.control_tasks.grid import (
    CountBench,
    TableParams,
    TableState,
    count_bench,
    deep_chain,
    grid_environment,
    grid_maze,
    shortest_way,
)

__all__ = [
    "AGVParams",
    "AGVState",
    "CountBench",
    "Environment",
    "TableParams",
    "TableState",
    "Trajectory",
    "Worlds",
    "agv_environment",
    "agv_scene",
    "auto_reset_step",
    "begin",
    "count_bench",
    "deep_chain",
    "grid_environment",
    "grid_maze",
    "rollout",
    "shortest_way",
]
