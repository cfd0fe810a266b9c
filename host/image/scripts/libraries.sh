# Runs inside the Debian of python.sh, read-only but for /usr/local and /root.
#
#   libraries.sh PROCESSES TRIM...
#
# Installs the wheels in /run/hutch/wheels with the pip among them, compiles all of
# it, and makes what would otherwise be made in every sandbox on first use.
export LC_ALL=C.UTF-8 HOME=/root
processes=$1
shift
PYTHONPATH=$(echo /run/hutch/wheels/pip-*.whl) python3 -m pip install --quiet \
	--no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check --root-user-action=ignore \
	/run/hutch/wheels/*.whl
ln -sf ../../bin/python3 /usr/local/bin/python
lib=$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
# The test suites of the large libraries are a tenth of their weight.
for package in "$@"; do
	find "$lib/$package" -depth -type d -name tests -exec rm -rf {} +
done
python3 -m compileall -q -j "$processes" "$lib"
# matplotlib looks for fonts once and remembers.
python3 -c 'import matplotlib.font_manager'
python3 - <<'END'
import importlib
for m in "IPython ipykernel numpy pandas scipy matplotlib.pyplot seaborn sklearn.linear_model sklearn.ensemble plotly.express requests pip".split():
    importlib.import_module(m)
END
python3 -m pip check
