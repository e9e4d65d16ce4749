/* The inner loops of models/forest.py in C, on the very table numpy would use.

   Bit-equal to LightGBM: one double sum per candidate, in the order of the trees. Built where a compiler is there;
   without it, forest.py does the same in numpy. Shapes are checked once, when a Forest is made; per call only what
   the caller passes. All arrays are C-contiguous; values of intp are Py_ssize_t.

   A request touches rows at random places of megabytes, so much of what it costs is cache lines. Most features are looked
   at by half of the trees or less: of those only these trees' words are kept. Measured without gain: AVX2, three or six
   sums side by side. */

#include "_kernel.h"

#include <string.h>

typedef struct {
    Py_ssize_t n_cuts;      /* the last is +inf; NaN has the row behind it */
    const double *cuts;
    const uint64_t *rows;   /* n_cuts + 1 of `width` words */
    Py_ssize_t width;
    const uint32_t *trees;  /* of each word of a row; NULL: every tree has one */
} Feature;

typedef struct {
    Py_ssize_t n_columns, used;
    Feature **of; /* by column, NULL for those the forest does not use */
    Feature *features;
    Py_ssize_t *columns; /* of each feature */
    double *cuts;
    uint64_t *words;
    uint32_t *trees;
} Side;

typedef struct {
    PyObject_HEAD
    Py_ssize_t trees;
    Side request, pair;
    double *values;      /* of all leaves, then 64 zeros */
    Py_ssize_t *first;   /* leaf of each tree */
} Forest;

/* A row found for a value. */
typedef struct {
    const uint64_t *words;
    const Feature *of;
} Row;

static void close_side(Side *side) {
    PyMem_Free(side->of);
    PyMem_Free(side->features);
    PyMem_Free(side->columns);
    PyMem_Free(side->cuts);
    PyMem_Free(side->words);
    PyMem_Free(side->trees);
}

static void forest_dealloc(Forest *self) {
    close_side(&self->request);
    close_side(&self->pair);
    PyMem_Free(self->values);
    PyMem_Free(self->first);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static void *copied(const Py_buffer *view, size_t padding) {
    char *made = PyMem_Malloc((size_t)view->len + padding + 1);
    if (!made) return PyErr_NoMemory();
    memcpy(made, view->buf, (size_t)view->len);
    memset(made + view->len, 0, padding);
    return made;
}

#define SPARSE(width, trees) (4 * (width) <= 3 * (trees)) /* a scattered word costs a little more than one of a full row */

/* Copy the rows of one side's features, each with the trees it is about. */
static int fill_side(Side *side, const Py_buffer *views, const uint64_t *table, Py_ssize_t table_rows,
                     const uint64_t *full, Py_ssize_t trees) {
    const Py_ssize_t *columns = views[0].buf, *firsts = views[1].buf, *starts = views[2].buf;
    const Py_ssize_t used = views[0].len / (Py_ssize_t)sizeof(Py_ssize_t);
    const Py_ssize_t n_cuts = views[3].len / (Py_ssize_t)sizeof(double);
    int fits = views[1].len == views[0].len && views[2].len == views[0].len + (Py_ssize_t)sizeof(Py_ssize_t) &&
               starts[0] == 0 && starts[used] == n_cuts;
    Py_ssize_t rows = 0;
    for (Py_ssize_t f = 0; fits && f < used; f++) {
        const Py_ssize_t own = starts[f + 1] - starts[f];
        fits = columns[f] >= 0 && columns[f] < side->n_columns && own > 0 && own <= n_cuts && firsts[f] >= 0 &&
               firsts[f] < table_rows && own < table_rows - firsts[f];
        rows += own + 1;
    }
    if (!fits) {
        PyErr_SetString(PyExc_ValueError, "the tables of a forest do not fit together");
        return -1;
    }
    side->used = used;
    side->of = PyMem_Calloc((size_t)side->n_columns + 1, sizeof *side->of);
    side->features = PyMem_Calloc((size_t)used + 1, sizeof *side->features);
    side->columns = copied(&views[0], 0);
    side->cuts = copied(&views[3], 0);
    side->words = PyMem_Malloc((size_t)(rows * trees + 1) * sizeof *side->words);
    side->trees = PyMem_Malloc((size_t)(used * trees + 1) * sizeof *side->trees);
    if (!side->of || !side->features || !side->columns || !side->cuts || !side->words || !side->trees) {
        PyErr_NoMemory();
        return -1;
    }
    uint64_t *word = side->words;
    uint32_t *tree = side->trees;
    for (Py_ssize_t f = 0; f < used; f++) {
        Feature *feature = &side->features[f];
        feature->n_cuts = starts[f + 1] - starts[f];
        feature->cuts = side->cuts + starts[f];
        feature->rows = word;
        const uint64_t *from = table + firsts[f] * trees;
        Py_ssize_t width = 0;
        for (Py_ssize_t t = 0; t < trees; t++)
            for (Py_ssize_t r = 0; r <= feature->n_cuts; r++)
                if (from[r * trees + t] != full[t]) {
                    tree[width++] = (uint32_t)t;
                    break;
                }
        const int sparse = SPARSE(width, trees);
        feature->trees = sparse ? tree : NULL;
        feature->width = sparse ? width : trees;
        for (Py_ssize_t r = 0; r <= feature->n_cuts; r++)
            for (Py_ssize_t w = 0; w < feature->width; w++) *word++ = from[r * trees + (sparse ? tree[w] : w)];
        if (sparse) tree += width;
        side->of[columns[f]] = feature;
    }
    return 0;
}

static int forest_init(Forest *self, PyObject *args, PyObject *kwargs) {
    PyObject *plain[8], *table, *full, *values, *first;
    if (kwargs && PyDict_GET_SIZE(kwargs)) {
        PyErr_SetString(PyExc_TypeError, "Forest takes no keywords");
        return -1;
    }
    if (self->trees) {
        PyErr_SetString(PyExc_TypeError, "a Forest is made once");
        return -1;
    }
    if (!PyArg_ParseTuple(args, "(OOOO)(OOOO)nnOOOO", &plain[0], &plain[1], &plain[2], &plain[3], &plain[4], &plain[5],
                          &plain[6], &plain[7], &self->request.n_columns, &self->pair.n_columns, &table, &full, &values,
                          &first))
        return -1;
    PyObject *const objects[12] = {plain[0], plain[1], plain[2], plain[3], plain[4], plain[5],
                                   plain[6], plain[7], table,    full,     values,   first};
    Py_buffer views[12] = {{0}};
    int result = -1;
    for (int i = 0; i < 12; i++) /* all items are of 8 bytes */
        if (open_buffer(objects[i], &views[i], 8) < 0) goto done;
    self->trees = views[9].len / 8;
    const Py_ssize_t *leaf = views[11].buf;
    int fits = self->trees > 0 && self->trees <= UINT32_MAX && views[11].len == views[9].len && views[10].len > 0 &&
               views[8].len % views[9].len == 0 && self->request.n_columns >= 0 && self->pair.n_columns >= 0;
    for (Py_ssize_t t = 0; fits && t < self->trees; t++) fits = leaf[t] >= 0 && leaf[t] < views[10].len / 8;
    if (!fits) {
        PyErr_SetString(PyExc_ValueError, "the tables of a forest do not fit together");
        goto done;
    }
    const Py_ssize_t rows = views[8].len / views[9].len;
    if (fill_side(&self->request, views, views[8].buf, rows, views[9].buf, self->trees) < 0 ||
        fill_side(&self->pair, views + 4, views[8].buf, rows, views[9].buf, self->trees) < 0)
        goto done;
    self->values = copied(&views[10], 64 * sizeof(double));
    self->first = copied(&views[11], 0);
    result = self->values && self->first ? 0 : -1;
done:
    for (int i = 0; i < 12; i++)
        if (views[i].obj) PyBuffer_Release(&views[i]);
    return result;
}

/* The row of one value: its place among the cuts as bisect_left gives it, NaN behind all. */
static inline Row row_of(const Feature *feature, double value) {
    const double *cuts = feature->cuts;
    Py_ssize_t low = 0, high = feature->n_cuts;
    if (value != value) low = high;
    while (low < high) {
        const Py_ssize_t middle = (low + high) >> 1;
        if (cuts[middle] < value)
            low = middle + 1;
        else
            high = middle;
    }
    return (Row){feature->rows + low * feature->width, feature};
}

/* to[t] = from[t] & whole[0][t] & ...: in one pass, because reading and writing a mask for each row costs as much as the
   rows do. Leaves 0 in n. */
static void and_whole(uint64_t *to, const uint64_t *from, const uint64_t **whole, int *n, Py_ssize_t trees) {
    const uint64_t *a = whole[0], *b = whole[1], *c = whole[2];
    if (*n == 3)
#pragma GCC ivdep
        for (Py_ssize_t t = 0; t < trees; t++) to[t] = from[t] & a[t] & b[t] & c[t];
    else if (*n == 2)
#pragma GCC ivdep
        for (Py_ssize_t t = 0; t < trees; t++) to[t] = from[t] & a[t] & b[t];
    else if (*n == 1)
#pragma GCC ivdep
        for (Py_ssize_t t = 0; t < trees; t++) to[t] = from[t] & a[t];
    *n = 0;
}

/* to[trees[w]] &= words[w], each tree once. */
static void and_scattered(uint64_t *restrict to, const uint64_t *restrict words, const uint32_t *restrict trees,
                          Py_ssize_t width) {
#pragma GCC ivdep
    for (Py_ssize_t w = 0; w < width; w++) to[trees[w]] &= words[w];
}

/* to[t] = from[t] & first[t] & rows[0][t] & ... of `count` rows. first: NULL for none, and then to may be from. */
static void and_rows(uint64_t *to, const uint64_t *from, const uint64_t *first, const Row *rows, Py_ssize_t count,
                     Py_ssize_t trees) {
    const uint64_t *whole[3];
    int n = 0;
    if (first) whole[n++] = first;
    for (Py_ssize_t r = 0; r < count; r++) {
        if (rows[r].of->trees) continue;
        whole[n++] = rows[r].words;
        if (n == 3) {
            and_whole(to, from, whole, &n, trees);
            from = to;
        }
    }
    and_whole(to, from, whole, &n, trees);
    for (Py_ssize_t r = 0; r < count; r++)
        if (rows[r].of->trees) and_scattered(to, rows[r].words, rows[r].of->trees, rows[r].of->width);
}

/* Rows of some request columns, appended to `rows`, which holds as many as the side has columns; their number or -1. */
static Py_ssize_t request_rows(const Side *side, PyObject *columns, PyObject *values, Row *rows) {
    if (!PyTuple_Check(columns) || !(PyList_Check(values) || PyTuple_Check(values)) ||
        PyTuple_GET_SIZE(columns) != PySequence_Fast_GET_SIZE(values) || PyTuple_GET_SIZE(columns) > side->n_columns) {
        PyErr_Format(PyExc_ValueError, "as many floats as columns are needed, %zd at most", side->n_columns);
        return -1;
    }
    Py_ssize_t found = 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(columns); i++) {
        const Py_ssize_t column = position(PyTuple_GET_ITEM(columns, i), side->n_columns);
        double value;
        if (column < 0) return -1;
        if (number(PySequence_Fast_GET_ITEM(values, i), &value) < 0) return -1;
        if (side->of[column]) rows[found++] = row_of(side->of[column], value);
    }
    return found;
}

/* forest.fold(columns, values, mask): AND the rows of some request columns into a writable uint64 mask of one word per
   tree. columns: tuple of positions on that side, each once; values: as many floats. */
static PyObject *forest_fold(Forest *self, PyObject *const *args, Py_ssize_t nargs) {
    if (nargs != 3) return PyErr_Format(PyExc_TypeError, "fold takes columns, values and mask");
    if (!self->first) return PyErr_Format(PyExc_ValueError, "a forest that was not made");
    Py_buffer mask;
    if (PyObject_GetBuffer(args[2], &mask, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE) < 0) return NULL;
    PyObject *result = NULL;
    Row *rows = PyMem_Malloc((size_t)(self->request.n_columns + 1) * sizeof(*rows));
    if (!rows)
        PyErr_NoMemory();
    else if (mask.len != self->trees * (Py_ssize_t)sizeof(uint64_t))
        PyErr_SetString(PyExc_ValueError, "the mask has another number of trees");
    else {
        const Py_ssize_t found = request_rows(&self->request, args[0], args[1], rows);
        if (found >= 0) {
            and_rows(mask.buf, mask.buf, NULL, rows, found, self->trees);
            result = Py_NewRef(Py_None);
        }
    }
    PyMem_Free(rows);
    PyBuffer_Release(&mask);
    return result;
}

/* Rows of one column for all candidates, one behind the other; the same number again, as small ones are, is looked up once. */
static int rows_of(const Feature *feature, PyObject *values, Py_ssize_t n, Row *rows) {
    PyObject *before = NULL;
    for (Py_ssize_t k = 0; k < n; k++) {
        PyObject *object = PyList_GET_ITEM(values, k);
        double value;
        if (object == before) {
            rows[k] = rows[k - 1];
            continue;
        }
        if (number(object, &value) < 0) return -1;
        rows[k] = row_of(feature, value);
        before = object;
    }
    return 0;
}

#define LAST (UINT64_C(1) << 63) /* what no mask leaves reads the padding, not what lies behind it */
#define TOGETHER 4 /* candidates whose sums run side by side: one alone waits for every addition of the one before */

/* Sums of the leaves that masks leave, each in the order of the trees. */
static void leaf_sums(const uint64_t *masks, const Forest *of, double *sums) {
    const Py_ssize_t trees = of->trees;
    double sum[TOGETHER] = {0};
    for (Py_ssize_t t = 0; t < trees; t++) {
        const double *values = of->values + of->first[t];
        for (int c = 0; c < TOGETHER; c++) sum[c] += values[__builtin_ctzll(masks[c * trees + t] | LAST)];
    }
    memcpy(sums, sum, sizeof sum);
}

/* The mask all candidates share: of the parts that other requests have too, then of its own columns. */
static int shared_mask(const Forest *self, PyObject *parts, PyObject *columns, PyObject *values, Row *rows,
                       uint64_t *restrict mask) {
    if (!PyTuple_Check(parts) || !PyTuple_GET_SIZE(parts)) {
        PyErr_SetString(PyExc_ValueError, "a tuple of request masks is needed");
        return -1;
    }
    const Py_ssize_t trees = self->trees;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(parts); i++) {
        Py_buffer part;
        if (open_buffer(PyTuple_GET_ITEM(parts, i), &part, sizeof(uint64_t)) < 0) return -1;
        const int fits = part.len == trees * (Py_ssize_t)sizeof(uint64_t);
        const uint64_t *restrict words = part.buf;
        if (fits && i)
            for (Py_ssize_t t = 0; t < trees; t++) mask[t] &= words[t];
        else if (fits)
            memcpy(mask, words, (size_t)part.len);
        PyBuffer_Release(&part);
        if (!fits) {
            PyErr_SetString(PyExc_ValueError, "request mask and trees do not fit together");
            return -1;
        }
    }
    const Py_ssize_t found = request_rows(&self->request, columns, values, rows);
    if (found < 0) return -1;
    and_rows(mask, mask, NULL, rows, found, trees);
    return 0;
}

/* forest.scores(request, masks, candidates, pairs, columns, values) -> list of raw scores.
   request: tuple of the masks of some request columns; columns, values: the other ones. masks: uint64 (ads, trees);
   candidates: list of positions in it; pairs: for each pair column a float that all candidates share or a list of one
   for each. */
static PyObject *forest_scores(Forest *self, PyObject *const *args, Py_ssize_t nargs) {
    if (nargs != 6) return PyErr_Format(PyExc_TypeError, "scores takes six arguments");
    if (!self->first) return PyErr_Format(PyExc_ValueError, "a forest that was not made");
    PyObject *candidates = args[2], *pairs = args[3], *result = NULL;
    const Side *side = &self->pair;
    const Py_ssize_t trees = self->trees, width = trees * (Py_ssize_t)sizeof(uint64_t);
    Py_buffer of_ads = {0};
    uint64_t *mask = NULL;
    Row *rows = NULL;
    if (open_buffer(args[1], &of_ads, sizeof(uint64_t)) < 0) return NULL;
    if (!PyList_Check(candidates) || !PyList_Check(pairs) || PyList_GET_SIZE(pairs) != side->n_columns ||
        of_ads.len % width) {
        PyErr_SetString(PyExc_ValueError, "masks, candidates and pairs do not fit together");
        goto done;
    }
    const Py_ssize_t n = PyList_GET_SIZE(candidates), ads = of_ads.len / width;
    const uint64_t *masks = of_ads.buf;
    /* The mask all candidates share, then those of TOGETHER candidates; rows by column, then those of one candidate. */
    mask = PyMem_Malloc((size_t)(width * (1 + TOGETHER)));
    rows = PyMem_Malloc((size_t)((n + 1) * (side->used + 1) + self->request.n_columns) * sizeof(*rows));
    if (!mask || !rows) {
        PyErr_NoMemory();
        goto done;
    }
    if (shared_mask(self, args[0], args[4], args[5], rows, mask) < 0) goto done;
    Row *one = rows + n * side->used;
    uint64_t *several = mask + trees;
    Py_ssize_t differ = 0, shared = 0;
    for (Py_ssize_t f = 0; f < side->used; f++) {
        const Feature *feature = &side->features[f];
        PyObject *column = PyList_GET_ITEM(pairs, side->columns[f]);
        double value;
        if (!PyList_Check(column)) {
            if (number(column, &value) < 0) goto done;
            one[shared++] = row_of(feature, value);
            continue;
        }
        if (PyList_GET_SIZE(column) != n) {
            PyErr_SetString(PyExc_ValueError, "candidates and pairs do not fit together");
            goto done;
        }
        Row *own = rows + n * differ;
        if (rows_of(feature, column, n, own) < 0) goto done;
        Py_ssize_t same = 1;
        while (same < n && own[same].words == own[0].words) same++;
        if (same < n)
            differ++;
        else if (n)
            one[shared++] = own[0];
    }
    and_rows(mask, mask, NULL, one, shared, trees);
    result = PyList_New(n);
    for (Py_ssize_t start = 0; result && start < n; start += TOGETHER) {
        const Py_ssize_t end = start + TOGETHER < n ? start + TOGETHER : n;
        double sums[TOGETHER];
        for (Py_ssize_t k = start; k < end; k++) {
            const Py_ssize_t ad = position(PyList_GET_ITEM(candidates, k), ads);
            if (ad < 0) {
                Py_CLEAR(result);
                goto done;
            }
            for (Py_ssize_t d = 0; d < differ; d++) one[d] = rows[n * d + k];
            and_rows(several + (k - start) * trees, mask, masks + ad * trees, one, differ, trees);
        }
        for (Py_ssize_t k = end - start; k < TOGETHER; k++) memcpy(several + k * trees, several, (size_t)width);
        leaf_sums(several, self, sums);
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
    PyBuffer_Release(&of_ads);
    return result;
}

static PyMethodDef forest_methods[] = {
    {"fold", METHOD(forest_fold), METH_FASTCALL, "AND the rows of some columns into a mask."},
    {"scores", METHOD(forest_scores), METH_FASTCALL, "Raw scores of candidates."},
    {NULL, NULL, 0, NULL},
};

PyTypeObject ForestType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "models._kernel.Forest",
    .tp_basicsize = sizeof(Forest),
    .tp_dealloc = (destructor)forest_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "Forest(request, pair, n_request, n_pair, table, full, leaf_values, first_leaf): see models/_kernel.pyi.",
    .tp_methods = forest_methods,
    .tp_init = (initproc)forest_init,
    .tp_new = PyType_GenericNew,
};
