"""The README's code runs as it stands."""

import contextlib
import io
import re
from pathlib import Path

import numpy as np
from absl.testing import absltest

README = Path(__file__).parent.parent / "README.md"


class ReadmeTest(absltest.TestCase):
  def test_spectra_of_your_own_model(self):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (code,) = [block for block in blocks if "import spectra" in block]
    names: dict = {}
    with contextlib.redirect_stdout(io.StringIO()):
      exec(compile(code, str(README), "exec"), names)
    found, hessian = names["found"], names["hessian"]
    matrix = names["spectra"].dense(hessian, names["params"])
    exact = np.linalg.eigvalsh(np.asarray(matrix, np.float64))
    self.assertTrue(found.top.converged.all())
    np.testing.assert_allclose(found.top.values, exact[::-1][:10], rtol=1e-3)
    np.testing.assert_allclose(found.bottom.values, exact[:10], atol=1e-4)
    trace = names["sizes"].trace
    self.assertLess(
      abs(trace.value - exact.sum()), 4 * trace.standard_error + 1e-4
    )


if __name__ == "__main__":
  absltest.main()
