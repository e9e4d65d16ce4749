/* What only this request has: its floor, what was searched for, and the user. Twin: models.features.now_values. */

#include "_kernel.h"

#include <string.h>

enum { INTEREST, MALE, FEMALE, AGE, RECENCY, FREQUENCY, KINDS };
#define N_VALUES 14
#define N_LATELY 3

/* A tag that is looked at. place: the lower one counts where two have the same score. */
typedef struct {
    int64_t tag;
    int32_t kind, place;
    double value;
} Known;

typedef struct {
    PyObject_HEAD
    PyObject *search, *interest, *last; /* {category: code} */
    PyObject *lately;                   /* callable (record, now_us) -> (last category, depth, gap, acts) */
    Known *known;                       /* by hash of the tag, `mask` + 1 of them; kind -1 where there is none */
    uint64_t mask;
} Now;

static void now_dealloc(Now *self) {
    Py_XDECREF(self->search);
    Py_XDECREF(self->interest);
    Py_XDECREF(self->last);
    Py_XDECREF(self->lately);
    PyMem_Free(self->known);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

/* Where a tag stands, or would. */
static Known *find(const Now *self, int64_t tag) {
    uint64_t at = ((uint64_t)tag * UINT64_C(0x9E3779B97F4A7C15)) >> 32;
    while (self->known[at & self->mask].kind >= 0 && self->known[at & self->mask].tag != tag) at++;
    return &self->known[at & self->mask];
}

/* Take in the tags that are looked at: a list of (tag, kind, place, value). */
static int fill_known(Now *self, PyObject *known) {
    const Py_ssize_t n = PyList_GET_SIZE(known);
    uint64_t size = 4;
    while (size < 4 * (uint64_t)n) size *= 2; /* a quarter full: nearly all others are told apart by one look */
    if (!(self->known = PyMem_Malloc(size * sizeof *self->known))) {
        PyErr_NoMemory();
        return -1;
    }
    self->mask = size - 1;
    for (uint64_t i = 0; i < size; i++) self->known[i] = (Known){0, -1, 0, 0.0};
    for (Py_ssize_t i = 0; i < n; i++) {
        long long tag;
        int kind, place;
        double value;
        PyObject *entry = PyList_GET_ITEM(known, i);
        if (!PyTuple_Check(entry)) {
            PyErr_SetString(PyExc_TypeError, "a tag is told as (tag, kind, place, value)");
            return -1;
        }
        if (!PyArg_ParseTuple(entry, "Liid", &tag, &kind, &place, &value)) return -1;
        if (kind < 0 || kind >= KINDS || place < 0) {
            PyErr_SetString(PyExc_ValueError, "no such kind of tag");
            return -1;
        }
        *find(self, tag) = (Known){tag, kind, place, value};
    }
    return 0;
}

static int now_init(Now *self, PyObject *args, PyObject *kwargs) {
    PyObject *search, *interest, *last, *known, *lately;
    if (kwargs && PyDict_GET_SIZE(kwargs)) {
        PyErr_SetString(PyExc_TypeError, "Now takes no keywords");
        return -1;
    }
    if (self->lately) {
        PyErr_SetString(PyExc_TypeError, "a Now is made once");
        return -1;
    }
    if (!PyArg_ParseTuple(args, "O!O!O!O!O", &PyDict_Type, &search, &PyDict_Type, &interest, &PyDict_Type, &last,
                          &PyList_Type, &known, &lately))
        return -1;
    if (self->known || fill_known(self, known) < 0) return -1;
    self->search = Py_NewRef(search);
    self->interest = Py_NewRef(interest);
    self->last = Py_NewRef(last);
    self->lately = Py_NewRef(lately);
    return 0;
}

/* What a user's tags say, found in one pass over them. */
typedef struct {
    int64_t score[KINDS];
    const Known *best[KINDS]; /* with the highest score, NULL where none has any */
} Tags;

static int read_tags(const Now *self, PyObject *tags, Tags *found) {
    memset(found, 0, sizeof *found);
    PyObject *key, *value;
    for (Py_ssize_t at = 0; PyDict_Next(tags, &at, &key, &value);) {
        int64_t tag, score;
        if (whole(key, &tag) < 0 || whole(value, &score) < 0) return -1;
        const Known *known = find(self, tag);
        const int kind = known->kind;
        if (kind == MALE || kind == FEMALE)
            found->score[kind] = score;
        else if (kind >= 0 && score > 0 &&
                 (score > found->score[kind] || (score == found->score[kind] && known->place < found->best[kind]->place))) {
            found->score[kind] = score;
            found->best[kind] = known;
        }
    }
    return 0;
}

/* The code of a category, NaN for one the model does not know; a new reference. */
static PyObject *code(PyObject *codes, PyObject *category) {
    PyObject *found = PyDict_GetItemWithError(codes, category);
    if (!found && PyErr_Occurred()) return NULL;
    return Py_NewRef(found ? found : constants.nan);
}

static PyObject *code_of(PyObject *codes, const Known *known) {
    PyObject *tag = PyLong_FromLongLong(known ? known->tag : 0);
    if (!tag) return NULL;
    PyObject *found = code(codes, tag);
    Py_DECREF(tag);
    return found;
}

static PyObject *value_of(const Known *known) {
    return known ? PyFloat_FromDouble(known->value) : Py_NewRef(constants.nan);
}

/* Impressions of the last day, of all our campaigns: each counts under its own scope. */
static PyObject *shown(PyObject *contacts, int64_t now_us) {
    if (!PyTuple_GET_SIZE(contacts)) return Py_NewRef(constants.zero);
    Met few[FEW], *met;
    const Py_ssize_t n = read_contacts(contacts, few, &met);
    if (n < 0) return NULL;
    const int64_t since = hour_of(now_us) - 24;
    double count = 0.0;
    for (Py_ssize_t i = 0; i < n; i++)
        if (met[i].hour >= since) count += (double)met[i].count;
    if (met != few) PyMem_Free(met);
    return PyFloat_FromDouble(count);
}

/* The session and the last category of a real-time record, which Python reads. */
static int read_lately(const Now *self, PyObject *record, PyObject *now_us, PyObject **category, PyObject **values) {
    PyObject *const args[] = {record, now_us};
    PyObject *said = PyObject_Vectorcall(self->lately, args, 2, NULL);
    said = checked(said, said && PyTuple_Check(said) && PyTuple_GET_SIZE(said) == 1 + N_LATELY, "a tuple of four");
    if (!said) return -1;
    *category = code(self->last, PyTuple_GET_ITEM(said, 0));
    for (int i = 0; i < N_LATELY; i++) values[i] = Py_NewRef(PyTuple_GET_ITEM(said, 1 + i));
    Py_DECREF(said);
    return *category ? 0 : -1;
}

/* The features of a user into `to`, which holds NULLs; -1 with an error. */
static int user_values(const Now *self, PyObject *user, PyObject *now, int64_t now_us, PyObject **to) {
    PyObject *tags = ATTRIBUTE(user, constants.tags, PyDict_Check, "a dict of tags");
    PyObject *contacts = tags ? ATTRIBUTE(user, constants.contacts, PyTuple_Check, "a tuple of contacts") : NULL;
    PyObject *audiences = contacts ? ATTRIBUTE(user, constants.audiences, PyAnySet_Check, "a set of audiences") : NULL;
    PyObject *record = audiences ? PyObject_GetAttr(user, constants.realtime) : NULL;
    int result = -1;
    Tags found;
    if (!record || read_tags(self, tags, &found) < 0) goto done;
    const int64_t male = found.score[MALE], female = found.score[FEMALE];
    const Py_ssize_t n = PyDict_GET_SIZE(tags);
    to[0] = n ? code_of(self->interest, found.best[INTEREST]) : Py_NewRef(constants.nan);
    if (!to[0]) goto done;
    to[2] = PyFloat_FromDouble((double)n);
    to[3] = Py_NewRef(male == female ? constants.nan : male > female ? constants.one : constants.zero);
    to[4] = value_of(found.best[AGE]);
    to[5] = value_of(found.best[RECENCY]);
    to[6] = value_of(found.best[FREQUENCY]);
    to[7] = PyFloat_FromDouble((double)PySet_GET_SIZE(audiences));
    to[8] = shown(contacts, now_us);
    for (int i = 0; i < 9; i++)
        if (i != 1 && !to[i]) goto done; /* 1 comes of the record */
    if (record == Py_None) {
        to[1] = Py_NewRef(constants.nan);
        to[9] = Py_NewRef(constants.zero);
        to[10] = Py_NewRef(constants.nan);
        to[11] = Py_NewRef(constants.zero);
    } else if (read_lately(self, record, now, &to[1], &to[9]) < 0)
        goto done;
    result = 0;
done:
    Py_XDECREF(tags);
    Py_XDECREF(contacts);
    Py_XDECREF(audiences);
    Py_XDECREF(record);
    return result;
}

static PyObject *searched(const Now *self, PyObject *context) {
    PyObject *tags = ATTRIBUTE(context, constants.searched, PyTuple_Check, "a tuple of tags");
    if (!tags) return NULL;
    PyObject *found =
        PyTuple_GET_SIZE(tags) ? code(self->search, PyTuple_GET_ITEM(tags, 0)) : Py_NewRef(constants.nan);
    Py_DECREF(tags);
    return found;
}

static PyObject *floor_of(PyObject *context) {
    PyObject *told = PyObject_GetAttr(context, constants.floor_micros);
    double floor;
    if (!told) return NULL;
    const int fits = number(told, &floor) == 0;
    Py_DECREF(told);
    return fits ? PyFloat_FromDouble(floor) : NULL;
}

/* now.values(context, user, now_us) -> list of 14. user: None for one who is not known. */
static PyObject *now_values(Now *self, PyObject *const *args, Py_ssize_t nargs) {
    int64_t now_us;
    if (nargs != 3) return PyErr_Format(PyExc_TypeError, "values takes context, user and now_us");
    if (!self->lately) return PyErr_Format(PyExc_ValueError, "a Now that was not made");
    if (whole(args[2], &now_us) < 0) return NULL;
    PyObject *context = args[0], *user = args[1];
    PyObject *values[N_VALUES] = {floor_of(context)};
    int fits = values[0] && (values[1] = searched(self, context));
    if (fits && user == Py_None)
        for (int i = 2; i < N_VALUES; i++) values[i] = Py_NewRef(constants.nan);
    else if (fits)
        fits = user_values(self, user, args[2], now_us, values + 2) == 0;
    PyObject *result = fits ? PyList_New(N_VALUES) : NULL;
    for (int i = 0; i < N_VALUES; i++) {
        if (result)
            PyList_SET_ITEM(result, i, values[i]);
        else
            Py_XDECREF(values[i]);
    }
    return result;
}

static PyMethodDef now_methods[] = {
    {"values", METHOD(now_values), METH_FASTCALL, "The features of NOW_COLUMNS."},
    {NULL, NULL, 0, NULL},
};

PyTypeObject NowType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "models._kernel.Now",
    .tp_basicsize = sizeof(Now),
    .tp_dealloc = (destructor)now_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "Now(search, interest, last, known, lately): see models/_kernel.pyi.",
    .tp_methods = now_methods,
    .tp_init = (initproc)now_init,
    .tp_new = PyType_GenericNew,
};
