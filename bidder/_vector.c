/* The features of one bid as they are logged. Twin: bidder.record.plain_vector. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>

#if PY_BIG_ENDIAN
#error "logged vectors are little endian: this machine does without"
#endif

/* No code of the number's own is run, so the lists around it stay as they were counted. */
static int put(char *to, Py_ssize_t column, PyObject *number) {
    double value;
    if (PyFloat_Check(number)) {
        value = PyFloat_AS_DOUBLE(number);
    } else if (PyLong_Check(number)) {
        value = PyLong_AsDouble(number);
        if (value == -1.0 && PyErr_Occurred()) return -1;
    } else {
        PyErr_SetString(PyExc_TypeError, "a feature is a number");
        return -1;
    }
    memcpy(to + 8 * column, &value, 8);
    return 0;
}

/* What one column of the pairs says of the ad at a position; borrowed. */
static PyObject *entry(PyObject *column, Py_ssize_t position) {
    if (!PyList_CheckExact(column)) return column;
    if (position >= 0 && position < PyList_GET_SIZE(column)) return PyList_GET_ITEM(column, position);
    PyErr_SetString(PyExc_IndexError, "no such candidate");
    return NULL;
}

static int fill(char *to, const unsigned char *columns, Py_ssize_t n, PyObject *request, PyObject *campaign,
                PyObject *pairs, Py_ssize_t position) {
    Py_ssize_t done = 0;
    for (Py_ssize_t part = 0; part < PyTuple_GET_SIZE(request); part++) {
        PyObject *values = PyTuple_GET_ITEM(request, part);
        if (!PyList_CheckExact(values)) {
            PyErr_SetString(PyExc_TypeError, "a part of a request is a list");
            return -1;
        }
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(values); i++, done++) {
            if (done == n || columns[done] >= n) {
                PyErr_SetString(PyExc_ValueError, "more values than columns");
                return -1;
            }
            if (put(to, columns[done], PyList_GET_ITEM(values, i)) < 0) return -1;
        }
    }
    if (done != n) {
        PyErr_SetString(PyExc_ValueError, "fewer values than columns");
        return -1;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(campaign); i++)
        if (put(to, n++, PyList_GET_ITEM(campaign, i)) < 0) return -1;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(pairs); i++) {
        PyObject *number = entry(PyList_GET_ITEM(pairs, i), position);
        if (!number || put(to, n++, number) < 0) return -1;
    }
    return 0;
}

static PyObject *vector(PyObject *self, PyObject *const *args, Py_ssize_t given) {
    (void)self;
    if (given != 5 || !PyBytes_CheckExact(args[0]) || !PyTuple_CheckExact(args[1]) || !PyList_CheckExact(args[2]) ||
        !PyList_CheckExact(args[3])) {
        PyErr_SetString(PyExc_TypeError, "vector(columns, request, campaign, pairs, position)");
        return NULL;
    }
    Py_ssize_t position = PyLong_AsSsize_t(args[4]), n = PyBytes_GET_SIZE(args[0]);
    if (position == -1 && PyErr_Occurred()) return NULL;
    PyObject *made = PyBytes_FromStringAndSize(NULL, 8 * (n + PyList_GET_SIZE(args[2]) + PyList_GET_SIZE(args[3])));
    if (made && fill(PyBytes_AS_STRING(made), (const unsigned char *)PyBytes_AS_STRING(args[0]), n, args[1], args[2],
                     args[3], position) < 0)
        Py_CLEAR(made);
    return made;
}

static PyMethodDef methods[] = {
    {"vector", (PyCFunction)(void (*)(void))vector, METH_FASTCALL, "See bidder/_vector.pyi."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, .m_name = "bidder._vector", .m_doc = "Features as they are logged.", .m_size = -1,
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__vector(void) {
    PyObject *made = PyModule_Create(&module);
    if (made && PyModule_AddIntConstant(made, "VERSION", 1) == 0) return made;
    Py_XDECREF(made);
    return NULL;
}
