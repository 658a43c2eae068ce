"""What a claim is: the models of `claims.yaml`.

accuracy       methods [A, B]: A minus B in the block's overall column, or in one benchmark
equivalence    methods [A, B], the ends of a range: B minus A is inside the margin
training_time  methods [A, B]: seconds of A over seconds of B
peak_memory    the same for the peak of the device's memory
course         methods [A]: how a logged quantity changes around a change of phase
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from bridge.store.schema import Closed, Name, read_yaml, validate

ClaimMetric = Literal["accuracy", "equivalence", "training_time", "peak_memory", "course"]
Moment = Literal["switch", "early", "end"]
Direction = Literal["higher", "lower"]
ReadIn = Literal["paper", "summary", "note"]
FAMILIES = {
    "accuracy": "accuracy",
    "equivalence": "accuracy",
    "training_time": "cost",
    "peak_memory": "cost",
    "course": "course",
}


class Leg(Closed):
    """A change between two moments of a run.

    `switch`: the last measurement of the first phase. `early`: the mean over the first third of
    the measurements in the second phase (a fixed window; the lowest point would be low by chance).
    `end`: the last measurement.
    """

    start: Moment
    end: Moment
    direction: Direction


class PublishedEffect(Closed):
    """What the paper prints for the same comparison."""

    effect: float
    unit: Literal["points", "percent"]
    model: str


class Claim(Closed):
    """One claim, in our own words."""

    id: Name
    paper: Name
    sentence: str
    where: str
    """Place in the paper."""
    read_in: ReadIn
    """Where claim and effect were read: in the paper, or in a summary of it or note on it."""
    metric: ClaimMetric
    methods: tuple[Name, ...] = Field(min_length=1)
    """Rows of a suite; which side is which depends on the metric, see the module."""
    benchmark: Name | None = None
    """The one benchmark that an accuracy claim speaks of; the block's overall column without."""
    direction: Direction | None = None
    margin: float | None = Field(None, gt=0)
    """Points within which the two ends of a range count as equal (`equivalence`)."""
    quantity: Literal["heldout_accuracy", "reward_mean", "demo_loss_heldout"] | None = None
    phases: tuple[Literal["sft", "rl"], Literal["sft", "rl"]] | None = None
    legs: tuple[Leg, ...] = ()
    published: PublishedEffect | None = None
    premises_not_met: tuple[str, ...] = ()
    """What a theorem presupposes and the suites here do not provide."""
    after_results: bool = False
    """Whether the claim came into the file after committed results for its rows had been seen."""
    remark: str = ""
    """What a reader must know to judge the measurement."""

    @property
    def family(self) -> tuple[str, str]:
        """Claims that share one Holm adjustment: those of one paper and one kind."""
        return self.paper, FAMILIES[self.metric]

    @property
    def n_measurements(self) -> int:
        """How many tests the claim adds to its family, whether it runs or not."""
        return max(len(self.legs), 1)

    @property
    def published_text(self) -> str:
        """The published effect with its unit and model (`no number`: none is known), and where it
        was read unless that is the paper; every place that shows the effect takes this text."""
        text = "no number"
        if self.published is not None:
            unit = "%" if self.published.unit == "percent" else "points"
            text = f"{self.published.effect:+g} {unit} ({self.published.model})"
        return text if self.read_in == "paper" else f"{text}, read in a {self.read_in}"

    @model_validator(mode="after")
    def _complete(self) -> Claim:
        needs = {
            "equivalence": {"margin"},
            "course": {"quantity", "phases", "legs"},
        }.get(self.metric, {"direction"})
        optional = ("direction", "margin", "quantity", "phases", "legs")
        for name in optional:
            given = getattr(self, name) not in (None, ())
            if given != (name in needs):
                word = "needs" if name in needs else "takes no"
                raise ValueError(f"claim '{self.id}' of metric '{self.metric}' {word} '{name}'")
        if self.benchmark is not None and self.metric not in ("accuracy", "equivalence"):
            raise ValueError(f"claim '{self.id}' of metric '{self.metric}' takes no 'benchmark'")
        n = len(self.methods)
        if n != (1 if self.metric == "course" else 2):
            raise ValueError(f"claim '{self.id}' of metric '{self.metric}' has {n} methods")
        return self


class Paper(Closed):
    """A source of claims."""

    title: str
    address: str


class ClaimsFile(Closed):
    """`claims.yaml`."""

    papers: dict[Name, Paper]
    claims: tuple[Claim, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _ids_and_papers(self) -> ClaimsFile:
        for claim in self.claims:
            if claim.paper not in self.papers:
                raise ValueError(f"claim '{claim.id}' names the unknown paper '{claim.paper}'")
        repeated = [name for name, n in Counter(claim.id for claim in self.claims).items() if n > 1]
        if repeated:
            raise ValueError(f"two claims have the id '{repeated[0]}'")
        return self


def load_claims(path: Path) -> ClaimsFile:
    """Read and check `claims.yaml`; raises a one-line `bridge.store.schema.ConfigError`."""
    return validate(ClaimsFile, read_yaml(path), path)
