/* How ads fit a user and a page, for all candidates of a request. Twin: models.pairs.pair_columns.

   What is rare is asked of Python: the real-time record, preference vectors, geofences. Values of tags are handed on as
   the very objects that the user's dict holds, so nothing is made for most features. */

#include "_kernel.h"

typedef struct {
    PyObject_HEAD
    Py_ssize_t n;
    PyObject *interests, *first, *targets, *audiences, *categories, *heads; /* tuples of n */
    int64_t *scopes;
    int targeted, several, fenced;
    PyObject *lately; /* callable (record, now_us) -> ({tag: score}, set of tags in the basket) */
    PyObject *liked;  /* callable (vector, positions) -> a column */
    PyObject *inside; /* callable (fences, positions) -> a column */
} Pairs;

/* One call: which ads are asked about, as read from a list of Python's before any code of Python's can run. */
typedef struct {
    const Pairs *ads;
    Py_ssize_t n;
    const Py_ssize_t *at;
    PyObject *positions;
} Asked;

static void pairs_dealloc(Pairs *self) {
    PyObject *const held[] = {self->interests, self->first, self->targets, self->audiences, self->categories,
                              self->heads,     self->lately, self->liked,  self->inside};
    for (size_t i = 0; i < sizeof held / sizeof *held; i++) Py_XDECREF(held[i]);
    PyMem_Free(self->scopes);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

/* All entries of a column are of the type that is named. */
static int all_are(PyObject *column, Py_ssize_t n, int (*fits)(PyObject *), const char *what) {
    for (Py_ssize_t i = 0; i < n; i++)
        if (!fits(PyTuple_GET_ITEM(column, i))) {
            PyErr_Format(PyExc_TypeError, "%s is needed, not %.100s", what, Py_TYPE(PyTuple_GET_ITEM(column, i))->tp_name);
            return 0;
        }
    return 1;
}

static int is_int(PyObject *object) { return PyLong_Check(object); }
static int is_str(PyObject *object) { return PyUnicode_Check(object); }
static int is_set(PyObject *object) { return PyAnySet_Check(object); }

/* A tuple of ints. */
static int is_tags(PyObject *object) {
    if (!PyTuple_Check(object)) return 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(object); i++)
        if (!PyLong_Check(PyTuple_GET_ITEM(object, i))) return 0;
    return 1;
}

static int fill_scopes(Pairs *self, PyObject *scopes) {
    if (!(self->scopes = PyMem_Malloc((size_t)(self->n + 1) * sizeof *self->scopes))) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < self->n; i++)
        if (whole(PyTuple_GET_ITEM(scopes, i), &self->scopes[i]) < 0) return -1;
    return 0;
}

static int pairs_init(Pairs *self, PyObject *args, PyObject *kwargs) {
    PyObject *interests, *first, *targets, *scopes, *categories, *heads, *audiences, *lately, *liked, *inside;
    int fenced;
    PyTypeObject *const tuple = &PyTuple_Type;
    if (kwargs && PyDict_GET_SIZE(kwargs)) {
        PyErr_SetString(PyExc_TypeError, "Pairs takes no keywords");
        return -1;
    }
    if (self->scopes) {
        PyErr_SetString(PyExc_TypeError, "a Pairs is made once");
        return -1;
    }
    if (!PyArg_ParseTuple(args, "O!O!O!O!O!O!O!pOOO", tuple, &interests, tuple, &first, tuple, &targets, tuple, &scopes,
                          tuple, &categories, tuple, &heads, tuple, &audiences, &fenced, &lately, &liked, &inside))
        return -1;
    const Py_ssize_t n = PyTuple_GET_SIZE(interests);
    PyObject *const columns[] = {first, targets, scopes, categories, heads, audiences};
    for (int i = 0; i < 6; i++)
        if (PyTuple_GET_SIZE(columns[i]) != n) {
            PyErr_SetString(PyExc_ValueError, "the columns of ads are of one length");
            return -1;
        }
    if (!all_are(interests, n, is_int, "an int") || !all_are(first, n, is_int, "an int") ||
        !all_are(targets, n, is_tags, "a tuple of ints") || !all_are(categories, n, is_str, "a str") ||
        !all_are(heads, n, is_str, "a str") || !all_are(audiences, n, is_set, "a set"))
        return -1;
    self->n = n;
    for (Py_ssize_t i = 0; i < n; i++) {
        const Py_ssize_t own = PyTuple_GET_SIZE(PyTuple_GET_ITEM(targets, i));
        self->targeted |= own > 0;
        self->several |= own > 1;
    }
    self->fenced = fenced;
    self->interests = Py_NewRef(interests);
    self->first = Py_NewRef(first);
    self->targets = Py_NewRef(targets);
    self->categories = Py_NewRef(categories);
    self->heads = Py_NewRef(heads);
    self->audiences = Py_NewRef(audiences);
    self->lately = Py_NewRef(lately);
    self->liked = Py_NewRef(liked);
    self->inside = Py_NewRef(inside);
    return fill_scopes(self, scopes);
}

/* What a dict holds of each candidate's entry of a column, 0 where it holds nothing. */
static PyObject *known_of(const Asked *asked, PyObject *known, PyObject *column) {
    PyObject *made = PyList_New(asked->n);
    for (Py_ssize_t k = 0; made && k < asked->n; k++) {
        PyObject *found = PyDict_GetItemWithError(known, PyTuple_GET_ITEM(column, asked->at[k]));
        if (!found && PyErr_Occurred()) {
            Py_CLEAR(made);
            break;
        }
        PyList_SET_ITEM(made, k, Py_NewRef(found ? found : constants.no));
    }
    return made;
}

/* Sum and maximum of what a dict of ints holds of some tags. */
static int sum_of(PyObject *known, PyObject *tags, int64_t *sum, int64_t *most) {
    *sum = 0;
    *most = PyTuple_GET_SIZE(tags) ? INT64_MIN : 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tags); i++) {
        PyObject *found = PyDict_GetItemWithError(known, PyTuple_GET_ITEM(tags, i));
        int64_t score = 0;
        if (found ? whole(found, &score) < 0 : PyErr_Occurred() != NULL) return -1;
        if (__builtin_add_overflow(*sum, score, sum)) {
            PyErr_SetString(PyExc_OverflowError, "scores are too large to add");
            return -1;
        }
        if (score > *most) *most = score;
    }
    return 0;
}

/* Columns of sum and maximum of what is known of the targets of each candidate. */
static int summed(const Asked *asked, PyObject *known, PyObject **sums, PyObject **most) {
    if (!asked->ads->targeted) {
        *sums = Py_NewRef(constants.no);
        *most = Py_NewRef(constants.no);
        return 0;
    }
    if (!asked->ads->several) {
        if (!(*sums = known_of(asked, known, asked->ads->first))) return -1;
        *most = Py_NewRef(*sums);
        return 0;
    }
    if (!(*sums = PyList_New(asked->n)) || !(*most = PyList_New(asked->n))) return -1;
    for (Py_ssize_t k = 0; k < asked->n; k++) {
        int64_t sum, best;
        PyObject *of_sum, *of_best = NULL;
        if (sum_of(known, PyTuple_GET_ITEM(asked->ads->targets, asked->at[k]), &sum, &best) < 0 ||
            !(of_sum = PyLong_FromLongLong(sum)))
            return -1;
        PyList_SET_ITEM(*sums, k, of_sum);
        if (!(of_best = PyLong_FromLongLong(best))) return -1;
        PyList_SET_ITEM(*most, k, of_best);
    }
    return 0;
}

/* How many of each candidate's audiences a user is in. */
static PyObject *member_of(const Asked *asked, PyObject *held) {
    if (!PySet_GET_SIZE(held)) return Py_NewRef(constants.no);
    PyObject *made = PyList_New(asked->n);
    for (Py_ssize_t k = 0; made && k < asked->n; k++) {
        PyObject *own = PyTuple_GET_ITEM(asked->ads->audiences, asked->at[k]), *count;
        if (!PySet_GET_SIZE(own))
            count = Py_NewRef(constants.no);
        else {
            PyObject *both = PyNumber_And(own, held);
            const Py_ssize_t size = both ? PyObject_Size(both) : -1;
            count = size < 0 ? NULL : PyLong_FromSsize_t(size);
            Py_XDECREF(both);
        }
        if (!count) {
            Py_CLEAR(made);
            break;
        }
        PyList_SET_ITEM(made, k, count);
    }
    return made;
}

/* Shown in 24 hours, in 7 days, hours since: what a user has met of one scope. */
static void met_of(const Met *met, Py_ssize_t n, int64_t scope, int64_t hour_now, double to[3]) {
    to[0] = to[1] = 0.0;
    to[2] = NAN;
    for (Py_ssize_t i = 0; i < n; i++) {
        if (met[i].scope != scope) continue;
        const double ago = (double)(hour_now - met[i].hour);
        if (ago <= 168) {
            to[1] += (double)met[i].count;
            if (ago <= 24) to[0] += (double)met[i].count;
        }
        if (!(to[2] < ago)) to[2] = ago;
    }
}

static int is_met(const Asked *asked, const Met *met, Py_ssize_t n) {
    for (Py_ssize_t i = 0; i < n; i++)
        for (Py_ssize_t k = 0; k < asked->n; k++)
            if (met[i].scope == asked->ads->scopes[asked->at[k]]) return 1;
    return 0;
}

/* Columns of the three contact features. */
static int shown(const Asked *asked, PyObject *contacts, int64_t now_us, PyObject **to) {
    PyObject *const never[] = {constants.zero, constants.zero, constants.nan};
    Met few[FEW], *met;
    const Py_ssize_t n = read_contacts(contacts, few, &met);
    if (n < 0) return -1;
    int result = 0;
    if (!is_met(asked, met, n)) {
        for (int i = 0; i < 3; i++) to[i] = Py_NewRef(never[i]);
    } else {
        for (int i = 0; i < 3; i++)
            if (!(to[i] = PyList_New(asked->n))) result = -1;
        for (Py_ssize_t k = 0; result == 0 && k < asked->n; k++) {
            double values[3];
            met_of(met, n, asked->ads->scopes[asked->at[k]], hour_of(now_us), values);
            for (int i = 0; i < 3; i++) {
                PyObject *value = PyFloat_FromDouble(values[i]);
                if (!value) result = -1;
                PyList_SET_ITEM(to[i], k, value);
            }
        }
    }
    if (met != few) PyMem_Free(met);
    return result;
}

/* Whether what each candidate is about lies in a basket. */
static PyObject *in_basket(const Asked *asked, PyObject *basket) {
    PyObject *made = PyList_New(asked->n);
    for (Py_ssize_t k = 0; made && k < asked->n; k++) {
        const int held = PySet_Contains(basket, PyTuple_GET_ITEM(asked->ads->interests, asked->at[k]));
        if (held < 0) {
            Py_CLEAR(made);
            break;
        }
        PyList_SET_ITEM(made, k, Py_NewRef(held ? Py_True : Py_False));
    }
    return made;
}

/* Columns now_interest, now_target and retargeted of a real-time record, which Python reads. */
static int lately(const Asked *asked, PyObject *record, PyObject *now, PyObject **to) {
    if (record == Py_None) {
        for (int i = 0; i < 3; i++) to[i] = Py_NewRef(constants.zero);
        return 0;
    }
    PyObject *const args[] = {record, now};
    PyObject *said = PyObject_Vectorcall(asked->ads->lately, args, 2, NULL), *sums = NULL;
    said = checked(said,
                   said && PyTuple_Check(said) && PyTuple_GET_SIZE(said) == 2 && PyDict_Check(PyTuple_GET_ITEM(said, 0)) &&
                       PyAnySet_Check(PyTuple_GET_ITEM(said, 1)),
                   "a dict and a set");
    int result = -1;
    if (said && (to[0] = known_of(asked, PyTuple_GET_ITEM(said, 0), asked->ads->interests)) &&
        summed(asked, PyTuple_GET_ITEM(said, 0), &sums, &to[1]) == 0 &&
        (to[2] = in_basket(asked, PyTuple_GET_ITEM(said, 1))))
        result = 0;
    Py_XDECREF(sums);
    Py_XDECREF(said);
    return result;
}

/* A column that Python makes. */
static PyObject *made_by(const Asked *asked, PyObject *callable, PyObject *what) {
    PyObject *const args[] = {what, asked->positions};
    return PyObject_Vectorcall(callable, args, 2, NULL);
}

/* The eleven columns a user is part of; `to` holds NULLs. */
static int user_columns(const Asked *asked, PyObject *user, PyObject *now, int64_t now_us, PyObject **to) {
    PyObject *tags = ATTRIBUTE(user, constants.tags, PyDict_Check, "a dict of tags"), *vector = NULL;
    PyObject *contacts = tags ? ATTRIBUTE(user, constants.contacts, PyTuple_Check, "a tuple of contacts") : NULL;
    PyObject *held = contacts ? ATTRIBUTE(user, constants.audiences, PyAnySet_Check, "a set of audiences") : NULL;
    PyObject *record = held ? PyObject_GetAttr(user, constants.realtime) : NULL;
    if (record) vector = ATTRIBUTE(user, constants.vector, PyBytes_Check, "a vector as bytes");
    int result = -1;
    if (vector && (to[0] = known_of(asked, tags, asked->ads->interests)) && summed(asked, tags, &to[1], &to[2]) == 0 &&
        (to[3] = member_of(asked, held)) && shown(asked, contacts, now_us, &to[4]) == 0 &&
        lately(asked, record, now, &to[7]) == 0) {
        to[10] = PyBytes_GET_SIZE(vector) ? made_by(asked, asked->ads->liked, vector) : Py_NewRef(constants.nan);
        result = to[10] ? 0 : -1;
    }
    Py_XDECREF(tags);
    Py_XDECREF(contacts);
    Py_XDECREF(held);
    Py_XDECREF(record);
    Py_XDECREF(vector);
    return result;
}

/* How the category of each candidate matches the page's. */
static PyObject *category_match(const Asked *asked, PyObject *context) {
    PyObject *page = ATTRIBUTE(context, constants.category, PyUnicode_Check, "a category"), *made = NULL, *head = NULL;
    if (!page) return NULL;
    const Py_ssize_t length = PyUnicode_GET_LENGTH(page);
    if (!length) {
        Py_DECREF(page);
        return Py_NewRef(constants.nan);
    }
    const Py_ssize_t dash = PyUnicode_FindChar(page, '-', 0, length, 1);
    if (dash > -2 && (head = PyUnicode_Substring(page, 0, dash < 0 ? length : dash))) made = PyList_New(asked->n);
    for (Py_ssize_t k = 0; made && k < asked->n; k++) {
        PyObject *own = PyTuple_GET_ITEM(asked->ads->categories, asked->at[k]);
        PyObject *top = PyTuple_GET_ITEM(asked->ads->heads, asked->at[k]), *match = constants.zero;
        if (!PyUnicode_GET_LENGTH(own))
            match = constants.nan;
        else if (PyUnicode_Compare(top, head) == 0)
            match = PyUnicode_Compare(own, page) == 0 ? constants.one : constants.half;
        PyList_SET_ITEM(made, k, Py_NewRef(match));
    }
    Py_XDECREF(head);
    Py_DECREF(page);
    return made;
}

/* {tag: 2 where it was searched for, 1 where only the page names it}. */
static PyObject *said(PyObject *topics, PyObject *searched) {
    PyObject *const lists[] = {topics, searched}, *const values[] = {constants.once, constants.twice};
    PyObject *made = PyDict_New();
    for (int i = 0; made && i < 2; i++)
        for (Py_ssize_t k = 0; made && k < PyTuple_GET_SIZE(lists[i]); k++)
            if (PyDict_SetItem(made, PyTuple_GET_ITEM(lists[i], k), values[i]) < 0) Py_CLEAR(made);
    return made;
}

/* For each candidate the larger of two columns of ints; the first is overwritten. */
static PyObject *larger(PyObject *column, PyObject *other) {
    if (!PyList_Check(other)) return column; /* nobody targets tags */
    for (Py_ssize_t k = 0; k < PyList_GET_SIZE(column); k++) {
        int64_t a, b;
        if (whole(PyList_GET_ITEM(column, k), &a) < 0 || whole(PyList_GET_ITEM(other, k), &b) < 0) {
            Py_DECREF(column);
            return NULL;
        }
        if (b > a) PyList_SetItem(column, k, Py_NewRef(PyList_GET_ITEM(other, k)));
    }
    return column;
}

static PyObject *topic_match(const Asked *asked, PyObject *context) {
    PyObject *topics = ATTRIBUTE(context, constants.topics, PyTuple_Check, "a tuple of tags"), *made = NULL;
    PyObject *terms = topics ? ATTRIBUTE(context, constants.searched, PyTuple_Check, "a tuple of tags") : NULL;
    PyObject *known = NULL, *sums = NULL, *most = NULL;
    if (terms && !PyTuple_GET_SIZE(topics) && !PyTuple_GET_SIZE(terms))
        made = Py_NewRef(constants.nan);
    else if (terms && (known = said(topics, terms)) && summed(asked, known, &sums, &most) == 0 &&
             (made = known_of(asked, known, asked->ads->interests)))
        made = larger(made, most);
    Py_XDECREF(sums);
    Py_XDECREF(most);
    Py_XDECREF(known);
    Py_XDECREF(terms);
    Py_XDECREF(topics);
    return made;
}

static PyObject *in_fence(const Asked *asked, PyObject *context) {
    if (!asked->ads->fenced) return Py_NewRef(constants.nan);
    PyObject *fences = PyObject_GetAttr(context, constants.fences);
    PyObject *made = fences ? made_by(asked, asked->ads->inside, fences) : NULL;
    Py_XDECREF(fences);
    return made;
}

#define N_COLUMNS 14
#define N_OF_USER 11

static PyObject *columns_of(const Asked *asked, PyObject *context, PyObject *user, PyObject *now, int64_t now_us) {
    PyObject *columns[N_COLUMNS] = {NULL}, *result = NULL;
    int fits = 1;
    if (user == Py_None)
        for (int i = 0; i < N_OF_USER; i++) columns[i] = Py_NewRef(constants.nan);
    else
        fits = user_columns(asked, user, now, now_us, columns) == 0;
    fits = fits && (columns[11] = category_match(asked, context)) && (columns[12] = topic_match(asked, context)) &&
           (columns[13] = in_fence(asked, context));
    if (fits) result = PyList_New(N_COLUMNS);
    for (int i = 0; i < N_COLUMNS; i++) {
        if (result)
            PyList_SET_ITEM(result, i, columns[i]);
        else
            Py_XDECREF(columns[i]);
    }
    return result;
}

/* pairs.columns(positions, context, user, now_us) -> list of 14, each a number or a list of one for each position.
   user: None for one who is not known. */
static PyObject *pairs_columns(Pairs *self, PyObject *const *args, Py_ssize_t nargs) {
    int64_t now_us;
    if (nargs != 4 || !PyList_Check(args[0]))
        return PyErr_Format(PyExc_TypeError, "columns takes a list of positions, context, user and now_us");
    if (!self->scopes || !self->inside) return PyErr_Format(PyExc_ValueError, "a Pairs that was not made");
    if (whole(args[3], &now_us) < 0) return NULL;
    const Py_ssize_t n = PyList_GET_SIZE(args[0]);
    Py_ssize_t few[FEW], *at = n > FEW ? PyMem_Malloc((size_t)n * sizeof *at) : few;
    if (!at) return PyErr_NoMemory();
    PyObject *result = NULL;
    Py_ssize_t k = 0;
    while (k < n && (at[k] = position(PyList_GET_ITEM(args[0], k), self->n)) >= 0) k++;
    if (k == n) result = columns_of(&(Asked){self, n, at, args[0]}, args[1], args[2], args[3], now_us);
    if (at != few) PyMem_Free(at);
    return result;
}

static PyMethodDef pairs_methods[] = {
    {"columns", METHOD(pairs_columns), METH_FASTCALL, "The pair features of some ads, by column."},
    {NULL, NULL, 0, NULL},
};

PyTypeObject PairsType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "models._kernel.Pairs",
    .tp_basicsize = sizeof(Pairs),
    .tp_dealloc = (destructor)pairs_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "Pairs(interests, first, targets, scopes, categories, heads, audiences, fenced, lately, liked, inside): "
              "see models/_kernel.pyi.",
    .tp_methods = pairs_methods,
    .tp_init = (initproc)pairs_init,
    .tp_new = PyType_GenericNew,
};
