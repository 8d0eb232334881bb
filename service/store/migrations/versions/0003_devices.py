"""What trains a job: what was there before has begun, or may begin, on the CPU."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("device", sa.Text(), nullable=False, server_default="auto"))
    op.execute("UPDATE jobs SET device = 'cpu'")
    op.drop_index("jobs_queue", "jobs")
    op.create_index("jobs_queue", "jobs", ["status", "owner", sa.literal_column("priority DESC"), "id", "device"], unique=False)
