/* The two inner loops of models/forest.py in C, on the very tables numpy would use.

   Bit-equal to LightGBM: one double sum per candidate, in the order of the trees. Built where a compiler is there;
   without it, forest.py does the same in numpy. Shapes are checked once, when a Side is made; per call only what
   the caller passes. All arrays are C-contiguous; values of intp are Py_ssize_t. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    PyObject_HEAD
    Py_buffer columns, cuts, rows, offsets, table; /* see _Side in forest.py */
    Py_ssize_t used, n_cuts, n_rows, trees, n_values;
    Py_ssize_t *feature_of; /* of each column, -1 for those the forest does not use */
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
    PyMem_Free(self->feature_of);
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
    int fits = trees > 0 && n_values >= 0 && self->offsets.len == self->columns.len;
    for (Py_ssize_t f = 0; fits && f < self->used; f++)
        fits = column[f] >= 0 && column[f] < n_values && offset[f] >= 0 && offset[f] + self->n_cuts < self->n_rows;
    Py_ssize_t table_rows = fits ? self->table.len / (Py_ssize_t)sizeof(uint64_t) / trees : 0;
    for (Py_ssize_t r = 0; fits && r < self->n_rows; r++) fits = row[r] >= 0 && row[r] < table_rows;
    if (!fits) {
        PyErr_SetString(PyExc_ValueError, "the tables of a side do not fit together");
        return -1;
    }
    self->feature_of = PyMem_Malloc((size_t)(n_values + 1) * sizeof(Py_ssize_t));
    if (!self->feature_of) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t c = 0; c < n_values; c++) self->feature_of[c] = -1;
    for (Py_ssize_t f = 0; f < self->used; f++) self->feature_of[column[f]] = f;
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

/* mask[t] &= rows[0][t] & ... of `count` rows. Four at a time, because reading and writing the mask for each costs as
   much as the rows do. */
static void and_rows(uint64_t *restrict mask, const uint64_t *const *rows, Py_ssize_t count, Py_ssize_t trees) {
    Py_ssize_t r = 0;
    for (; r + 4 <= count; r += 4) {
        const uint64_t *restrict a = rows[r], *restrict b = rows[r + 1], *restrict c = rows[r + 2], *restrict d = rows[r + 3];
        for (Py_ssize_t t = 0; t < trees; t++) mask[t] &= a[t] & b[t] & c[t] & d[t];
    }
    for (; r < count; r++) {
        const uint64_t *restrict row = rows[r];
        for (Py_ssize_t t = 0; t < trees; t++) mask[t] &= row[t];
    }
}

static int number(PyObject *object, double *value) {
    *value = PyFloat_AsDouble(object);
    return *value == -1.0 && PyErr_Occurred() ? -1 : 0;
}

/* side.fold(columns, values, mask): AND the rows of some columns into a writable uint64 mask of one word per tree.
   columns: tuple of positions on this side, each once; values: list of as many floats. */
static PyObject *side_fold(Side *self, PyObject *const *args, Py_ssize_t nargs) {
    if (nargs != 3) return PyErr_Format(PyExc_TypeError, "fold takes columns, values and mask");
    PyObject *columns = args[0], *values = args[1];
    if (!PyTuple_Check(columns) || !PyList_Check(values) || PyTuple_GET_SIZE(columns) != PyList_GET_SIZE(values) ||
        PyList_GET_SIZE(values) > self->n_values)
        return PyErr_Format(PyExc_ValueError, "as many floats as columns are needed, %zd at most", self->n_values);
    Py_buffer mask;
    if (PyObject_GetBuffer(args[2], &mask, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE) < 0) return NULL;
    PyObject *result = NULL;
    const uint64_t **rows = PyMem_Malloc((size_t)(self->n_values + 1) * sizeof(*rows));
    if (!rows) {
        PyErr_NoMemory();
        goto done;
    }
    if (mask.len != self->trees * (Py_ssize_t)sizeof(uint64_t)) {
        PyErr_SetString(PyExc_ValueError, "the mask has another number of trees");
        goto done;
    }
    Py_ssize_t found = 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(columns); i++) {
        const Py_ssize_t column = PyLong_AsSsize_t(PyTuple_GET_ITEM(columns, i));
        double value;
        if (column < 0 || column >= self->n_values) {
            if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "no such column");
            goto done;
        }
        if (number(PyList_GET_ITEM(values, i), &value) < 0) goto done;
        if (self->feature_of[column] >= 0) rows[found++] = row_of(self, self->feature_of[column], value);
    }
    and_rows(mask.buf, rows, found, self->trees);
    result = Py_NewRef(Py_None);
done:
    PyMem_Free(rows);
    PyBuffer_Release(&mask);
    return result;
}

/* Rows of one column for all candidates, one behind the other; equal ones, as most are, are looked up once. */
static int rows_of(const Side *side, Py_ssize_t feature, PyObject *values, Py_ssize_t n, const uint64_t **rows) {
    uint64_t before = 0, bits;
    for (Py_ssize_t k = 0; k < n; k++) {
        double value;
        if (number(PyList_GET_ITEM(values, k), &value) < 0) return -1;
        memcpy(&bits, &value, sizeof bits);
        rows[k] = k && bits == before ? rows[k - 1] : row_of(side, feature, value);
        before = bits;
    }
    return 0;
}

#define TOGETHER 4 /* candidates whose sums run side by side: one alone waits for every addition of the one before */

/* Sums of the leaves that masks leave, each in the order of the trees. */
static void leaf_sums(const uint64_t *masks, Py_ssize_t trees, const double *values, const Py_ssize_t *first,
                      Py_ssize_t n_values, double *sums) {
    double sum[TOGETHER] = {0};
    for (Py_ssize_t t = 0; t < trees; t++)
        for (int c = 0; c < TOGETHER; c++) {
            const uint64_t left = masks[c * trees + t];
            const Py_ssize_t leaf = first[t] + (left ? __builtin_ctzll(left) : 0);
            sum[c] += values[leaf < n_values ? leaf : n_values - 1];
        }
    memcpy(sums, sum, sizeof sum);
}

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
static PyObject *chances(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs) {
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

/* side.scores(request_mask, masks, candidates, pairs, leaf_values, first_leaf) -> list of raw scores.
   masks: uint64 (ads, trees); candidates: list of positions in it; pairs: for each column of this side a float that
   all candidates share or a list of one for each. */
static PyObject *side_scores(Side *self, PyObject *const *args, Py_ssize_t nargs) {
    if (nargs != 6) return PyErr_Format(PyExc_TypeError, "scores takes six arguments");
    PyObject *candidates = args[2], *pairs = args[3], *result = NULL;
    Py_buffer views[4] = {{0}};
    const Py_ssize_t itemsizes[4] = {sizeof(uint64_t), sizeof(uint64_t), sizeof(double), sizeof(Py_ssize_t)};
    PyObject *const objects[4] = {args[0], args[1], args[4], args[5]};
    const Py_ssize_t trees = self->trees, width = trees * (Py_ssize_t)sizeof(uint64_t);
    const Py_ssize_t *columns = self->columns.buf;
    uint64_t *mask = NULL;
    const uint64_t **rows = NULL;
    for (int i = 0; i < 4; i++)
        if (open_buffer(objects[i], &views[i], itemsizes[i]) < 0) goto done;
    if (!PyList_Check(candidates) || !PyList_Check(pairs) || PyList_GET_SIZE(pairs) != self->n_values ||
        views[0].len != width || views[1].len % width || views[2].len < (Py_ssize_t)sizeof(double) ||
        views[3].len != trees * (Py_ssize_t)sizeof(Py_ssize_t)) {
        PyErr_SetString(PyExc_ValueError, "request mask, masks, candidates, pairs and leaves do not fit together");
        goto done;
    }
    const Py_ssize_t n = PyList_GET_SIZE(candidates), ads = views[1].len / width;
    const Py_ssize_t n_values = views[2].len / (Py_ssize_t)sizeof(double);
    const uint64_t *masks = views[1].buf;
    /* The mask all candidates share, then those of TOGETHER candidates; rows by column, then those of one candidate. */
    mask = PyMem_Malloc((size_t)(width * (1 + TOGETHER)));
    rows = PyMem_Malloc((size_t)((n + 1) * (self->used + 1)) * sizeof(*rows));
    if (!mask || !rows) {
        PyErr_NoMemory();
        goto done;
    }
    const uint64_t **one = rows + n * self->used;
    uint64_t *several = mask + trees;
    Py_ssize_t differ = 0, shared = 0;
    memcpy(mask, views[0].buf, (size_t)width);
    for (Py_ssize_t f = 0; f < self->used; f++) {
        PyObject *column = PyList_GET_ITEM(pairs, columns[f]);
        double value;
        if (!PyList_Check(column)) {
            if (number(column, &value) < 0) goto done;
            one[shared++] = row_of(self, f, value);
            continue;
        }
        if (PyList_GET_SIZE(column) != n) {
            PyErr_SetString(PyExc_ValueError, "candidates and pairs do not fit together");
            goto done;
        }
        const uint64_t **own = rows + n * differ;
        if (rows_of(self, f, column, n, own) < 0) goto done;
        Py_ssize_t same = 1;
        while (same < n && own[same] == own[0]) same++;
        if (same < n)
            differ++;
        else if (n)
            one[shared++] = own[0];
    }
    and_rows(mask, one, shared, trees);
    result = PyList_New(n);
    for (Py_ssize_t start = 0; result && start < n; start += TOGETHER) {
        const Py_ssize_t end = start + TOGETHER < n ? start + TOGETHER : n;
        double sums[TOGETHER];
        for (Py_ssize_t k = start; k < end; k++) {
            const Py_ssize_t ad = PyLong_AsSsize_t(PyList_GET_ITEM(candidates, k));
            if (ad < 0 || ad >= ads) {
                if (!PyErr_Occurred()) PyErr_SetString(PyExc_IndexError, "no such ad");
                Py_CLEAR(result);
                goto done;
            }
            uint64_t *restrict to = several + (k - start) * trees;
            const uint64_t *restrict own = masks + ad * trees;
            for (Py_ssize_t t = 0; t < trees; t++) to[t] = mask[t] & own[t];
            for (Py_ssize_t d = 0; d < differ; d++) one[d] = rows[n * d + k];
            and_rows(to, one, differ, trees);
        }
        for (Py_ssize_t k = end - start; k < TOGETHER; k++) memcpy(several + k * trees, several, (size_t)width);
        leaf_sums(several, trees, views[2].buf, views[3].buf, n_values, sums);
        for (Py_ssize_t k = start; k < end; k++) {
            PyObject *score = PyFloat_FromDouble(sums[k - start]);
            if (!score) {
                Py_CLEAR(result);
                goto done;
            }
            PyList_SET_ITEM(result, k, score);
        }
    }
done:
    PyMem_Free(mask);
    PyMem_Free(rows);
    for (int i = 0; i < 4; i++)
        if (views[i].obj) PyBuffer_Release(&views[i]);
    return result;
}

static PyMethodDef side_methods[] = {
    {"fold", (PyCFunction)(void (*)(void))side_fold, METH_FASTCALL, "AND the rows of some columns into a mask."},
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

static PyMethodDef functions[] = {
    {"chances", (PyCFunction)(void (*)(void))chances, METH_FASTCALL, "Calibrated probabilities of raw scores."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, .m_name = "models._kernel", .m_doc = "Inner loops of models.forest.", .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit__kernel(void) {
    if (PyType_Ready(&SideType) < 0) return NULL;
    PyObject *made = PyModule_Create(&module);
    if (!made) return NULL;
    if (PyModule_AddIntConstant(made, "VERSION", 3) < 0) {
        Py_DECREF(made);
        return NULL;
    }
    Py_INCREF(&SideType);
    if (PyModule_AddObject(made, "Side", (PyObject *)&SideType) < 0) {
        Py_DECREF(&SideType);
        Py_DECREF(made);
        return NULL;
    }
    return made;
}
