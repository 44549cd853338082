"""Names of drugs in a text.

A word is taken for one by its stem (the WHO's stems for international nonproprietary names), by a
list of common drugs without such a stem, or because a dose follows it (``Zelorfan 50 mg``).
"""

from __future__ import annotations

import re

from blender_med.fusers.claims.words import word_set

_STEMS = (
    "afil|apine|astine|azepam|azepine|azolam|azole|azosin|barbital|caine|cillin|ciclib|conazole|"
    "coxib|curium|cycline|dipine|dronate|drine|eterol|faxine|fenac|fibrate|floxacin|formin|gabalin|"
    "gatran|gliflozin|gliptin|glitazone|glutide|grastim|grel|lukast|mab|micin|mycin|nidazole|"
    "olac|olol|oprazole|oterol|oxacin|oxetine|oxicam|parin|peridol|peridone|platin|poetin|"
    "prazole|pressin|pril|prilat|profen|quine|racetam|relin|rubicin|sartan|semide|setron|solone|"
    "sone|statin|tadine|taxel|thiazide|thyroxine|tidine|tinib|tocin|toin|triptan|triptyline|"
    "tropium|uterol|vaptan|vir|vudine|xaban|zolam|zolid"
)
_BY_STEM = re.compile(rf"[a-z]{{2,}}(?:{_STEMS})")
_NOT_DRUGS = frozenset({"reservoir", "hormone"})

_COMMON = word_set(
    """abatacept acarbose acetaminophen acetazolamide adalimumab adrenaline albendazole albuterol
    allopurinol alprazolam amantadine amiodarone amitriptyline anastrozole aspirin atropine
    azathioprine baclofen bisacodyl budesonide bumetanide buprenorphine bupropion calcitriol
    carbimazole cefalexin cefazolin ceftriaxone cefuroxime cephalexin cetirizine chlorpromazine
    ciclosporin citalopram clonidine clozapine codeine colchicine cyclophosphamide cyclosporine
    dapsone desloratadine desmopressin dexamethasone dextromethorphan digoxin diltiazem
    diphenhydramine docusate domperidone donepezil duloxetine entacapone ephedrine epinephrine
    ergotamine escitalopram estradiol etanercept ethambutol ezetimibe febuxostat fentanyl
    finasteride fludrocortisone flumazenil fluticasone furosemide gabapentin glibenclamide
    gliclazide glimepiride glipizide glucagon glyburide guaifenesin haloperidol heparin hydralazine
    hydrocodone hydrocortisone hydromorphone hydroxychloroquine hydroxyurea hydroxyzine insulin
    interferon ipratropium isoniazid isotretinoin ivabradine ivermectin ketamine lactulose
    lamotrigine leflunomide letrozole levodopa levothyroxine linezolid lithium loperamide loratadine
    mebendazole meclizine melatonin memantine meperidine mesalamine methadone methimazole
    methotrexate methyldopa methylphenidate metoclopramide minoxidil mirtazapine misoprostol
    morphine mycophenolate naloxone naltrexone nifedipine nitrofurantoin nitroglycerin
    norepinephrine octreotide orlistat oxybutynin oxycodone paracetamol penicillamine penicillin
    phenobarbital phenytoin pramipexole praziquantel prednisolone prednisone pregabalin primidone
    probenecid prochlorperazine promethazine propofol propylthiouracil pseudoephedrine pyrazinamide
    pyridostigmine quinine raloxifene retinol ribavirin rifampicin rifampin riluzole risperidone
    rivastigmine ropinirole salbutamol selegiline senna sertraline simethicone sirolimus
    spironolactone sucralfate sulfamethoxazole sulfasalazine tacrolimus tamoxifen tamsulosin
    testosterone theophylline tizanidine topiramate tramadol tranexamic trazodone trimethoprim
    valproate verapamil warfarin zolpidem zopiclone zonisamide"""
)
_SYNONYMS = {
    "acetaminophen": "paracetamol", "tylenol": "paracetamol", "adrenaline": "epinephrine",
    "noradrenaline": "norepinephrine", "albuterol": "salbutamol", "ventolin": "salbutamol",
    "rifampin": "rifampicin", "cyclosporine": "ciclosporin", "cyclosporin": "ciclosporin",
    "frusemide": "furosemide", "glibenclamide": "glyburide", "lignocaine": "lidocaine",
    "pethidine": "meperidine", "advil": "ibuprofen", "motrin": "ibuprofen",
    "coumadin": "warfarin", "cephalexin": "cefalexin", "mesalazine": "mesalamine",
}  # fmt: skip

_TOKEN = re.compile(r"[A-Za-z][A-Za-z-]{3,}")
_BEFORE_DOSE = re.compile(
    r"\b([A-Z][a-z]{4,}|[a-z]{6,})\s\d[\d.,]*\s?(?:mg|mcg|µg|g|ml|units?|IU)\b"
)
_NEVER_BEFORE_DOSE = word_set(
    """about above adding approximately around below between daily dosage exceed exceeding exceeds
    every first given initial initially inject injecting least maximum minimum nearly receive
    receives receiving reduce reduced reducing roughly should single start started starting taken
    takes taking tablet tablets their these those total under usual usually where which within
    increase increased weekly another"""
)


def drugs(text: str) -> dict[str, int]:
    """Canonical name of each drug in ``text``, with the character where it first stands.

    Synonyms have one name: acetaminophen is ``paracetamol``.
    """
    found: dict[str, int] = {}
    for match in _TOKEN.finditer(text):
        if is_drug(match.group().lower()):
            found.setdefault(canonical(match.group().lower()), match.start())
    for match in _BEFORE_DOSE.finditer(text):
        if match[1].lower() not in _NEVER_BEFORE_DOSE:
            found.setdefault(canonical(match[1].lower()), match.start())
    return found


def is_drug(word: str) -> bool:
    """Whether a lower-case word is the name of a drug by list or by stem."""
    if word in _COMMON or word in _SYNONYMS:
        return True
    return word not in _NOT_DRUGS and _BY_STEM.fullmatch(word) is not None


def canonical(word: str) -> str:
    """The one name of a drug with several; other words as they are."""
    return _SYNONYMS.get(word, word)
