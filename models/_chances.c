/* Calibrated probabilities of raw scores. Twins: models.registry.Model.chances, models.knots.interpolations. */

#include "_kernel.h"

/* As models.knots.interpolated; xs ascending, n > 0. */
static double interpolated(double x, const double *xs, const double *ys, Py_ssize_t n) {
    Py_ssize_t low = 0, high = n;
    while (low < high) {
        const Py_ssize_t middle = (low + high) >> 1;
        if (x < xs[middle])
            high = middle;
        else
            low = middle + 1;
    }
    if (low == 0 || low == n) return ys[low ? low - 1 : 0];
    return ys[low - 1] + (ys[low] - ys[low - 1]) * (x - xs[low - 1]) / (xs[low] - xs[low - 1]);
}

/* chances(scores, xs, ys): calibrated probabilities of a list of raw scores, as models.registry.Model.chances has them.
   xs, ys: float64 knots, empty for none. */
PyObject *chances(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs) {
    if (nargs != 3 || !PyList_Check(args[0])) return PyErr_Format(PyExc_TypeError, "chances takes a list and two arrays");
    Py_buffer xs = {0}, ys = {0};
    PyObject *result = NULL;
    if (open_buffer(args[1], &xs, sizeof(double)) < 0 || open_buffer(args[2], &ys, sizeof(double)) < 0) goto done;
    if (xs.len != ys.len) {
        PyErr_SetString(PyExc_ValueError, "knots are two lists of one length");
        goto done;
    }
    const Py_ssize_t n = PyList_GET_SIZE(args[0]), knots = xs.len / (Py_ssize_t)sizeof(double);
    result = PyList_New(n);
    for (Py_ssize_t k = 0; result && k < n; k++) {
        double score;
        PyObject *chance = NULL;
        if (number(PyList_GET_ITEM(args[0], k), &score) == 0) {
            double p = score > -700.0 ? 1.0 / (1.0 + exp(-score)) : 0.0;
            chance = PyFloat_FromDouble(knots ? interpolated(p, xs.buf, ys.buf, knots) : p);
        }
        if (!chance) {
            Py_CLEAR(result);
            break;
        }
        PyList_SET_ITEM(result, k, chance);
    }
done:
    if (xs.obj) PyBuffer_Release(&xs);
    if (ys.obj) PyBuffer_Release(&ys);
    return result;
}

