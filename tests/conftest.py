"""One thread of torch in the test process: these tensors are so small that waiting for a second thread costs more than it gives."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
