/* Look-ups a request does by the dozen. Twins: models.lookups.plain_look_up, plain_ones. */

#include "_kernel.h"

/* look_up(known, column, positions, otherwise): of each position of a tuple, what a dict holds of the entry there. */
PyObject *look_up(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs) {
    if (nargs != 4 || !PyDict_Check(args[0]) || !PyTuple_Check(args[1]) || !PyList_Check(args[2]))
        return PyErr_Format(PyExc_TypeError, "look_up takes a dict, a tuple, a list and any");
    PyObject *known = args[0], *column = args[1], *positions = args[2], *otherwise = args[3];
    PyObject *result = PyList_New(PyList_GET_SIZE(positions));
    for (Py_ssize_t k = 0; result && k < PyList_GET_SIZE(result); k++) {
        PyObject *found = NULL;
        if (k >= PyList_GET_SIZE(positions)) /* a key's comparison may be Python code, too */
            PyErr_SetString(PyExc_RuntimeError, "the positions changed while they were read");
        else {
            const Py_ssize_t at = position(PyList_GET_ITEM(positions, k), PyTuple_GET_SIZE(column));
            if (at >= 0) found = PyDict_GetItemWithError(known, PyTuple_GET_ITEM(column, at));
        }
        if (PyErr_Occurred()) {
            Py_CLEAR(result);
            break;
        }
        PyList_SET_ITEM(result, k, Py_NewRef(found ? found : otherwise));
    }
    return result;
}

/* ones(data, limit): positions of the lowest set bits of bytes in little-endian order. */
PyObject *ones(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs) {
    if (nargs != 2 || !PyBytes_Check(args[0])) return PyErr_Format(PyExc_TypeError, "ones takes bytes and a limit");
    Py_ssize_t limit = PyLong_AsSsize_t(args[1]);
    if (limit == -1 && PyErr_Occurred()) return NULL;
    const unsigned char *data = (const unsigned char *)PyBytes_AS_STRING(args[0]);
    const Py_ssize_t size = PyBytes_GET_SIZE(args[0]);
    PyObject *result = PyList_New(0);
    for (Py_ssize_t i = 0; result && i < size && limit > 0; i++)
        for (unsigned byte = data[i]; result && byte && limit > 0; byte &= byte - 1, limit--) {
            PyObject *at = PyLong_FromSsize_t(8 * i + __builtin_ctz(byte));
            if (!at || PyList_Append(result, at) < 0) Py_CLEAR(result);
            Py_XDECREF(at);
        }
    return result;
}

