"""The layout of the supernets that these tests train and read."""

from jaxnas.spaces.mobilenetv2_space import IDENTITY, Candidate, Layout, Stage

LAYOUT = Layout(
    image_size=8,
    stem=2,
    stem_stride=1,
    first=0,
    stages=(Stage(2, 2, 1), Stage(4, 1, 2)),
    head=4,
    candidates=(Candidate(3, 2), Candidate(5, 2)),
    optional=(IDENTITY,),
)
CHOICES = (3, 3, 2)
