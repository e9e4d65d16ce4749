/* The module models._kernel: inner loops of the bid path in C, each with a twin in Python that says what it computes and
   does it where no compiler was. Built only where there is one; one version number for all files.

     _forest.c   scores of a forest                  models.forest
     _chances.c  probabilities of scores             models.registry, models.knots
     _pairs.c    features of ads with a user         models.pairs.pair_columns
     _now.c      features of a user now              models.features.now_values
     _lookups.c  look-ups by the dozen               models.lookups */

#include "_kernel.h"

Constants constants;

static int make_constants(void) {
    const struct {
        PyObject **at;
        const char *name;
    } names[] = {
        {&constants.tags, "tags"},         {&constants.audiences, "audiences"}, {&constants.contacts, "contacts"},
        {&constants.vector, "vector"},     {&constants.realtime, "realtime"},   {&constants.scope, "scope"},
        {&constants.hour, "hour"},         {&constants.count, "count"},         {&constants.category, "category"},
        {&constants.topics, "topics"},     {&constants.searched, "searched"},   {&constants.fences, "fences"},
        {&constants.floor_micros, "floor_micros"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!*names[i].at && !(*names[i].at = PyUnicode_InternFromString(names[i].name))) return -1;
    const struct {
        PyObject **at;
        double value;
    } floats[] = {{&constants.nan, NAN}, {&constants.zero, 0.0}, {&constants.half, 0.5}, {&constants.one, 1.0}};
    for (size_t i = 0; i < sizeof floats / sizeof *floats; i++)
        if (!*floats[i].at && !(*floats[i].at = PyFloat_FromDouble(floats[i].value))) return -1;
    PyObject **const ints[] = {&constants.no, &constants.once, &constants.twice};
    for (int i = 0; i < 3; i++)
        if (!*ints[i] && !(*ints[i] = PyLong_FromLong(i))) return -1;
    return 0;
}

static Py_ssize_t read_contact(PyObject *contact, Met *to) {
    PyObject *const names[] = {constants.scope, constants.hour, constants.count};
    int64_t *const values[] = {&to->scope, &to->hour, &to->count};
    for (int i = 0; i < 3; i++) {
        PyObject *found = PyObject_GetAttr(contact, names[i]);
        const int fits = found && whole(found, values[i]) == 0;
        Py_XDECREF(found);
        if (!fits) return -1;
        if (*values[i] >> 53 != 0 && *values[i] >> 53 != -1) {
            PyErr_SetString(PyExc_OverflowError, "a contact's numbers are below 2^53, to be added as floats");
            return -1;
        }
    }
    return 0;
}

Py_ssize_t read_contacts(PyObject *contacts, Met *few, Met **met) {
    *met = few;
    const Py_ssize_t n = PyTuple_GET_SIZE(contacts);
    if (n > FEW && !(*met = PyMem_Malloc((size_t)n * sizeof **met))) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++)
        if (read_contact(PyTuple_GET_ITEM(contacts, i), *met + i) < 0) {
            if (*met != few) PyMem_Free(*met);
            *met = few;
            return -1;
        }
    return n;
}

static PyMethodDef functions[] = {
    {"look_up", METHOD(look_up), METH_FASTCALL, "What a dict holds of some entries of a tuple."},
    {"ones", METHOD(ones), METH_FASTCALL, "Positions of set bits."},
    {"chances", METHOD(chances), METH_FASTCALL, "Calibrated probabilities of raw scores."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, .m_name = "models._kernel", .m_doc = "Inner loops of the bid path.", .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit__kernel(void) {
    if (make_constants() < 0) return NULL;
    PyObject *made = PyModule_Create(&module);
    if (made && PyModule_AddIntConstant(made, "VERSION", 6) == 0 && PyModule_AddType(made, &ForestType) == 0 &&
        PyModule_AddType(made, &PairsType) == 0 && PyModule_AddType(made, &NowType) == 0)
        return made;
    Py_XDECREF(made);
    return NULL;
}
