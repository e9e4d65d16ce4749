/* The two inner loops of models/forest.py in C, on the very tables numpy would use.

   Bit-equal to LightGBM: one double sum per candidate, in the order of the trees. Built where a compiler is there;
   without it, forest.py does the same in numpy. Shapes are checked once, when a Side is made; per call only what
   the caller passes. All arrays are C-contiguous; values of intp are Py_ssize_t. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

typedef struct {
    PyObject_HEAD
    Py_buffer columns, cuts, rows, offsets, table; /* see _Side in forest.py */
    Py_ssize_t used, n_cuts, n_rows, trees, n_values;
} Side;

static int open_buffer(PyObject *object, Py_buffer *view, Py_ssize_t itemsize) {
    if (PyObject_GetBuffer(object, view, PyBUF_C_CONTIGUOUS) < 0) return -1;
    if (view->itemsize != itemsize) {
        PyBuffer_Release(view);
        view->obj = NULL;
        PyErr_Format(PyExc_ValueError, "items of %zd bytes are needed", itemsize);
        return -1;
    }
    return 0;
}

static void side_dealloc(Side *self) {
    Py_buffer *views[] = {&self->columns, &self->cuts, &self->rows, &self->offsets, &self->table};
    for (int i = 0; i < 5; i++)
        if (views[i]->obj) PyBuffer_Release(views[i]);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static int side_init(Side *self, PyObject *args, PyObject *kwargs) {
    PyObject *columns, *cuts, *rows, *offsets, *table;
    Py_ssize_t trees, n_values;
    if (kwargs && PyDict_GET_SIZE(kwargs)) {
        PyErr_SetString(PyExc_TypeError, "Side takes no keywords");
        return -1;
    }
    if (self->table.obj) {
        PyErr_SetString(PyExc_TypeError, "a Side is made once");
        return -1;
    }
    if (!PyArg_ParseTuple(args, "OOOOOnn", &columns, &cuts, &rows, &offsets, &table, &trees, &n_values)) return -1;
    if (open_buffer(columns, &self->columns, sizeof(Py_ssize_t)) < 0 ||
        open_buffer(cuts, &self->cuts, sizeof(double)) < 0 ||
        open_buffer(rows, &self->rows, sizeof(Py_ssize_t)) < 0 ||
        open_buffer(offsets, &self->offsets, sizeof(Py_ssize_t)) < 0 ||
        open_buffer(table, &self->table, sizeof(uint64_t)) < 0)
        return -1;
    self->used = self->columns.len / (Py_ssize_t)sizeof(Py_ssize_t);
    self->n_cuts = self->cuts.len / (Py_ssize_t)sizeof(double);
    self->n_rows = self->rows.len / (Py_ssize_t)sizeof(Py_ssize_t);
    self->trees = trees;
    self->n_values = n_values;
    const Py_ssize_t *column = self->columns.buf, *offset = self->offsets.buf, *row = self->rows.buf;
    int fits = trees > 0 && self->offsets.len == self->columns.len;
    for (Py_ssize_t f = 0; fits && f < self->used; f++)
        fits = column[f] >= 0 && column[f] < n_values && offset[f] >= 0 && offset[f] + self->n_cuts < self->n_rows;
    Py_ssize_t table_rows = fits ? self->table.len / (Py_ssize_t)sizeof(uint64_t) / trees : 0;
    for (Py_ssize_t r = 0; fits && r < self->n_rows; r++) fits = row[r] >= 0 && row[r] < table_rows;
    if (!fits) {
        PyErr_SetString(PyExc_ValueError, "the tables of a side do not fit together");
        return -1;
    }
    return 0;
}

/* The table row of one value: its place among the cuts as numpy.searchsorted gives it, NaN behind all. */
static inline const uint64_t *row_of(const Side *side, Py_ssize_t feature, double value) {
    const double *cuts = side->cuts.buf;
    Py_ssize_t low = 0, high = side->n_cuts;
    if (value != value) low = high;
    while (low < high) {
        Py_ssize_t middle = (low + high) >> 1;
        if (cuts[middle] < value)
            low = middle + 1;
        else
            high = middle;
    }
    const Py_ssize_t *offsets = side->offsets.buf, *rows = side->rows.buf;
    return (const uint64_t *)side->table.buf + rows[offsets[feature] + low] * side->trees;
}

/* AND the rows of all used features of a list of floats into mask[trees]; -1 and an error set when they do not fit.
   Four rows at a time, because reading and writing the mask for each costs as much as the rows do. */
static int fold(const Side *side, PyObject *values, uint64_t *restrict mask) {
    if (!PyList_Check(values) || PyList_GET_SIZE(values) != side->n_values) {
        PyErr_Format(PyExc_ValueError, "a list of %zd floats is needed", side->n_values);
        return -1;
    }
    const Py_ssize_t *columns = side->columns.buf;
    const Py_ssize_t trees = side->trees;
    const uint64_t *four[4];
    int found = 0;
    for (Py_ssize_t f = 0; f < side->used; f++) {
        double value = PyFloat_AsDouble(PyList_GET_ITEM(values, columns[f]));
        if (value == -1.0 && PyErr_Occurred()) return -1;
        four[found++] = row_of(side, f, value);
        if (found == 4) {
            const uint64_t *restrict a = four[0], *restrict b = four[1], *restrict c = four[2], *restrict d = four[3];
            for (Py_ssize_t t = 0; t < trees; t++) mask[t] &= a[t] & b[t] & c[t] & d[t];
            found = 0;
        }
    }
    while (found) {
        const uint64_t *restrict row = four[--found];
        for (Py_ssize_t t = 0; t < trees; t++) mask[t] &= row[t];
    }
    return 0;
}

/* side.fold(values, mask): AND a side's rows into a writable uint64 mask of one word per tree. */
static PyObject *side_fold(Side *self, PyObject *const *args, Py_ssize_t nargs) {
    if (nargs != 2) return PyErr_Format(PyExc_TypeError, "fold takes values and mask");
    Py_buffer mask;
    if (PyObject_GetBuffer(args[1], &mask, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE) < 0) return NULL;
    int failed = mask.len != self->trees * (Py_ssize_t)sizeof(uint64_t);
    if (failed)
        PyErr_SetString(PyExc_ValueError, "the mask has another number of trees");
    else
        failed = fold(self, args[0], mask.buf) < 0;
    PyBuffer_Release(&mask);
    if (failed) return NULL;
    Py_RETURN_NONE;
}

static double leaf_sum(const uint64_t *mask, Py_ssize_t trees, const double *values, const Py_ssize_t *first,
                       Py_ssize_t n_values) {
    double sum = 0.0;
    for (Py_ssize_t t = 0; t < trees; t++) {
        Py_ssize_t leaf = first[t] + (mask[t] ? __builtin_ctzll(mask[t]) : 0);
        sum += values[leaf < n_values ? leaf : n_values - 1];
    }
    return sum;
}

/* side.scores(request_mask, masks, candidates, pairs, leaf_values, first_leaf) -> list of raw scores.
   masks: uint64 (ads, trees); candidates: list of positions in it; pairs: for each, the list of pair features. */
static PyObject *side_scores(Side *self, PyObject *const *args, Py_ssize_t nargs) {
    if (nargs != 6) return PyErr_Format(PyExc_TypeError, "scores takes six arguments");
    PyObject *candidates = args[2], *pairs = args[3], *result = NULL;
    Py_buffer views[4] = {{0}};
    const Py_ssize_t itemsizes[4] = {sizeof(uint64_t), sizeof(uint64_t), sizeof(double), sizeof(Py_ssize_t)};
    PyObject *const objects[4] = {args[0], args[1], args[4], args[5]};
    const Py_ssize_t trees = self->trees, width = trees * (Py_ssize_t)sizeof(uint64_t);
    uint64_t *mask = NULL;
    for (int i = 0; i < 4; i++)
        if (open_buffer(objects[i], &views[i], itemsizes[i]) < 0) goto done;
    if (!PyList_Check(candidates) || !PyList_Check(pairs) || PyList_GET_SIZE(pairs) != PyList_GET_SIZE(candidates) ||
        views[0].len != width || views[1].len % width || views[2].len < (Py_ssize_t)sizeof(double) ||
        views[3].len != trees * (Py_ssize_t)sizeof(Py_ssize_t)) {
        PyErr_SetString(PyExc_ValueError, "request mask, masks, candidates, pairs and leaves do not fit together");
        goto done;
    }
    const Py_ssize_t n = PyList_GET_SIZE(candidates), ads = views[1].len / width;
    const Py_ssize_t n_values = views[2].len / (Py_ssize_t)sizeof(double);
    const uint64_t *request = views[0].buf, *masks = views[1].buf;
    mask = PyMem_Malloc((size_t)width);
    if (!mask) {
        PyErr_NoMemory();
        goto done;
    }
    result = PyList_New(n);
    for (Py_ssize_t k = 0; result && k < n; k++) {
        Py_ssize_t ad = PyLong_AsSsize_t(PyList_GET_ITEM(candidates, k));
        PyObject *score = NULL;
        if (ad >= 0 && ad < ads) {
            for (Py_ssize_t t = 0; t < trees; t++) mask[t] = request[t] & masks[ad * trees + t];
            if (fold(self, PyList_GET_ITEM(pairs, k), mask) == 0)
                score = PyFloat_FromDouble(leaf_sum(mask, trees, views[2].buf, views[3].buf, n_values));
        } else if (!PyErr_Occurred()) {
            PyErr_SetString(PyExc_IndexError, "no such ad");
        }
        if (!score) {
            Py_CLEAR(result);
            break;
        }
        PyList_SET_ITEM(result, k, score);
    }
done:
    PyMem_Free(mask);
    for (int i = 0; i < 4; i++)
        if (views[i].obj) PyBuffer_Release(&views[i]);
    return result;
}

static PyMethodDef side_methods[] = {
    {"fold", (PyCFunction)(void (*)(void))side_fold, METH_FASTCALL, "AND this side's rows of a list of floats into a mask."},
    {"scores", (PyCFunction)(void (*)(void))side_scores, METH_FASTCALL, "Raw scores of candidates, this side being theirs."},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject SideType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "models._kernel.Side",
    .tp_basicsize = sizeof(Side),
    .tp_dealloc = (destructor)side_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "Side(columns, cuts, rows, offsets, table, trees, n_values): the tables of one side of a forest.",
    .tp_methods = side_methods,
    .tp_init = (initproc)side_init,
    .tp_new = PyType_GenericNew,
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "models._kernel", "Inner loops of models.forest.", -1};

PyMODINIT_FUNC PyInit__kernel(void) {
    if (PyType_Ready(&SideType) < 0) return NULL;
    PyObject *made = PyModule_Create(&module);
    if (!made) return NULL;
    Py_INCREF(&SideType);
    if (PyModule_AddObject(made, "Side", (PyObject *)&SideType) < 0) {
        Py_DECREF(&SideType);
        Py_DECREF(made);
        return NULL;
    }
    return made;
}
